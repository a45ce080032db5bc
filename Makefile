# dualwrite: build with PGXS.
#
#	make && make install		against the pg_config in PATH, or PG_CONFIG=...
#	make installcheck		regress and isolation tests against a running server, as psql would reach it
#	test/run			everything, in throwaway clusters; see test/run --help

EXTENSION = dualwrite
EXTVERSION := $(shell sed -n "s/^default_version *= *'\(.*\)'/\1/p" $(EXTENSION).control)
PGFILEDESC = "dualwrite - move live data from an old table to a new one"

MODULE_big = $(EXTENSION)
OBJS := $(patsubst %.c,%.o,$(sort $(wildcard src/*.c)))

# The install script is put together from the parts in sql/, in the order of their names.
SQL_PARTS := $(sort $(wildcard sql/[0-9][0-9]_*.sql))
DATA_built = sql/$(EXTENSION)--$(EXTVERSION).sql
EXTRA_CLEAN = sql/$(EXTENSION)--*.sql

# pg_regress looks below --inputdir for sql/ and specs/, and for expected/ in the current
# directory first. An isolation test must not be named like a regress test: they share expected/.
REGRESS = $(sort $(patsubst test/sql/%.sql,%,$(wildcard test/sql/*.sql)))
REGRESS_OPTS = --inputdir=test --load-extension=$(EXTENSION)
ISOLATION = $(sort $(patsubst test/specs/%.spec,%,$(wildcard test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=test --outputdir=. --load-extension=$(EXTENSION)

PG_CONFIG ?= pg_config

# Warnings are errors; a packager with a newer compiler may say WERROR=.
WERROR ?= -Werror

# The server's headers count as system headers: what -Wextra finds in them (unused parameters, signed
# comparisons) is not ours to mend, and every warning stays on for our own code.
PG_CPPFLAGS = -isystem $(shell $(PG_CONFIG) --includedir-server)

# PostgreSQL's own flags ask for declarations at the start of a block; its headers no longer need
# that and neither do we.
PG_CFLAGS = -Wall -Wextra $(WERROR) -Wno-declaration-after-statement

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

# Calls among our own modules go straight to the function, not through the dynamic linker's table: a mirrored row makes some fifty.
ifeq ($(PORTNAME), linux)
SHLIB_LINK += -Wl,-Bsymbolic-functions
endif

# PGXS knows nothing of header dependencies: any header rebuilds every object.
$(OBJS) $(OBJS:.o=.bc): $(wildcard src/*.h) Makefile

$(DATA_built): $(SQL_PARTS) $(EXTENSION).control Makefile
	{ printf '%s\n' '\echo Use "CREATE EXTENSION $(EXTENSION)" to load this file. \quit'; cat $(SQL_PARTS); } > $@.tmp
	mv $@.tmp $@
