/*
 * readside.h: which side serves a read.
 */
#ifndef DW_READSIDE_H
#define DW_READSIDE_H

#include "dualwrite.h"

/* Shares are in hundredths of a percent. */
#define DW_SHARE_ALL 10000

/* What the caller's snapshot says about the reads of a migration.  Private to readside.c but for the first three. */
typedef struct DwReads
{
	DwPhase		phase;
	int			share;			/* of the buckets that the new side serves, the session's override included */
	uint64		seed;			/* to begin a bucket's hash with: the same on every server */
	struct DwReadsEntry *entry;
} DwReads;

/* Read the state of a migration by the active snapshot.  Writes nothing.  ERROR 42704 when that sees no such migration. */
extern DwReads dw_reads_get(const char *migration, int length);

/* Continue a bucket's hash with a value of the given type; a null counts as empty. */
extern uint64 dw_bucket_hash(uint64 hash, Oid type, Datum value, bool isnull);

/* Is this bucket served by the new side? */
extern bool dw_reads_new(const DwReads *reads, uint64 hash);
/* Is this transaction served by the new side?  One answer a transaction, for as long as the phase allows it. */
extern bool dw_reads_new_for_transaction(const DwReads *reads);

extern void dw_readside_init(void);

#endif							/* DW_READSIDE_H */
