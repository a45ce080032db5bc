/*
 * mirror.c: what the bench of the mirror needs of the server and SQL does not have.
 *
 * Built and loaded by test/bench/mirror only, in its throwaway cluster.
 */
#include "postgres.h"

#include <time.h>

#include "fmgr.h"

PG_MODULE_MAGIC;

PG_FUNCTION_INFO_V1(bench_nothing);
PG_FUNCTION_INFO_V1(bench_cpu);

/* A trigger that does nothing: what calling one costs, and nobody's mirror can go below. */
Datum
bench_nothing(PG_FUNCTION_ARGS)
{
	return PointerGetDatum(NULL);
}

/* Seconds of processor time that this backend has used.  Other processes of the machine do not count. */
Datum
bench_cpu(PG_FUNCTION_ARGS)
{
	struct timespec used;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	PG_RETURN_FLOAT8(used.tv_sec + used.tv_nsec / 1e9);
}
