/*
 * init.c: what happens when the library is loaded.
 *
 * Every module sets up its own; the order matters only in that shared memory and settings come first.
 */
#include "postgres.h"

#include "autoread.h"
#include "execution.h"
#include "inserts.h"
#include "kept.h"
#include "mapping.h"
#include "mirror.h"
#include "readside.h"
#include "settings.h"
#include "shmem.h"
#include "stats.h"
#include "violation.h"
#include "worker.h"

#include "fmgr.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	dw_settings_init();
	dw_shmem_init();
	dw_stats_init();
	dw_mapping_init();
	dw_kept_init();
	dw_execution_init();
	dw_inserts_init();
	dw_mirror_init();
	dw_violation_init();
	dw_readside_init();
	dw_autoread_init();
	dw_worker_init();
}
