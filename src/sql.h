/*
 * sql.h: statements on the extension's own tables.
 */
#ifndef DW_SQL_H
#define DW_SQL_H

#include "dualwrite.h"

/* One argument of a statement: type, value, null. */
typedef struct DwArg
{
	Oid			type;
	Datum		value;
	bool		isnull;
} DwArg;

#define DW_INT4(v)	((DwArg) {INT4OID, Int32GetDatum(v), false})
#define DW_INT8(v)	((DwArg) {INT8OID, Int64GetDatum(v), false})
#define DW_BOOL(v)	((DwArg) {BOOLOID, BoolGetDatum(v), false})
#define DW_OID(v)	((DwArg) {OIDOID, ObjectIdGetDatum(v), false})
#define DW_TIME(v)	((DwArg) {TIMESTAMPTZOID, TimestampTzGetDatum(v), false})
#define DW_FLOAT8(v) ((DwArg) {FLOAT8OID, Float8GetDatum(v), false})
#define DW_JSONB(v)	((DwArg) {JSONBOID, PointerGetDatum(v), (v) == NULL})
#define DW_TEXT(v)	(dw_text_arg(v))	/* C string or NULL */
#define DW_DATUM(t, v, n) ((DwArg) {(t), (v), (n)})

/* Begin and end a run of statements: SPI connection, extension owner, safe search_path. */
typedef struct DwSql
{
	Oid			saved_user;
	int			saved_context;
	int			saved_nest;
	MemoryContext caller;		/* results that must outlive dw_sql_end are copied here */
} DwSql;

extern void dw_sql_begin(DwSql *sql);
extern void dw_sql_end(DwSql *sql);

/*
 * Until dw_sql_end, plans read tables by their indexes.  For a list that is usually empty, and may have millions of rows a
 * minute later: a plan made for the empty one and kept would read all of it for each key.
 */
extern void dw_sql_by_index(void);

/*
 * Run one statement with the newest snapshot, whatever the isolation level.  text must be a constant: its plan is
 * kept for the life of the backend under that pointer.  Rows are in SPI_tuptable until the next statement; the number
 * of rows read or changed is returned.
 */
extern uint64 dw_sql(const char *text, int nargs, const DwArg *args);

/* The same with a given snapshot, to read what one comparison saw. */
extern uint64 dw_sql_snapshot(const char *text, int nargs, const DwArg *args, Snapshot snapshot);

/* Columns of row i of SPI_tuptable (1-based column).  Results are copied to the context given with dw_sql_begin. */
extern Datum dw_sql_value(uint64 row, int column, bool *isnull);
extern char *dw_sql_cstring(DwSql *sql, uint64 row, int column);	/* NULL for null; text form of any type */

extern DwArg dw_text_arg(const char *value);

#endif							/* DW_SQL_H */
