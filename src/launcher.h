/*
 * launcher.h: the process that starts the workers of all databases.
 */
#ifndef DW_LAUNCHER_H
#define DW_LAUNCHER_H

#include "dualwrite.h"

extern PGDLLEXPORT void dw_launcher_main(Datum arg);
/* From _PG_init under shared_preload_libraries: one that lives as long as the server. */
extern void dw_launcher_register(void);
/* One that ends when nothing is left to do.  false: max_worker_processes is used up.  Raises no error. */
extern bool dw_launcher_start(void);

/*
 * In a transaction: can the lock be had, until its end, that connecting to this database takes?  No, while the database
 * is being dropped, renamed or copied.
 */
extern bool dw_database_lockable(Oid database);

#endif							/* DW_LAUNCHER_H */
