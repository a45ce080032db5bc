/*
 * readside.c: which side serves a read.
 *
 * The answer comes from the caller's own snapshot, not from the newest state: a transaction that is older than the backfill
 * must not be told "new", where it would find nothing.  Two statements about the same rows, or the two branches of a
 * read view, agree because they share a snapshot.  So nothing may be remembered longer than a snapshot's content stays the
 * same, and no invalidation could tell: messages arrive after the commit that they announce.
 *
 * It must never write, lock a row or take an xid: it runs on hot standbys, and in parallel workers.
 */
#include "postgres.h"

#include "readside.h"
#include "settings.h"
#include "catalog.h"

#include <math.h>

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

/* Written into what users see as "the same bucket": never to be changed. */
#define BUCKET_SEED UINT64CONST(0x6475616c77726974)

/* More migrations than this in one session are forgotten between transactions. */
#define MAX_ENTRIES 64

/* Everything that decides what an MVCC snapshot sees within one (sub)transaction. */
typedef struct SnapshotImage
{
	TransactionId xmin;
	TransactionId xmax;
	CommandId	command;
	uint32		count;			/* of ids, in progress */
	uint32		space;
	TransactionId *ids;
} SnapshotImage;

typedef struct DwReadsEntry
{
	char	   *name;
	int			length;
	uint64		seed;
	bool		known;			/* what follows is what "seen" sees */
	SnapshotImage seen;
	DwPhase		phase;
	int			share;
	bool		pinned;			/* this transaction was given an answer */
	bool		pinned_new;
} DwReadsEntry;

static List *entries = NIL;		/* of DwReadsEntry, in TopMemoryContext */

/* Ids in progress according to a snapshot: those of transactions, then those of subtransactions. */
static uint32
snapshot_ids(Snapshot snapshot)
{
	return snapshot->xcnt + Max(snapshot->subxcnt, 0);
}

static bool
same_content(const SnapshotImage *image, Snapshot snapshot)
{
	return image->xmin == snapshot->xmin &&
		image->xmax == snapshot->xmax &&
		image->command == snapshot->curcid &&
		image->count == snapshot_ids(snapshot) &&
		memcmp(image->ids, snapshot->xip, snapshot->xcnt * sizeof(TransactionId)) == 0 &&
		(snapshot->subxcnt <= 0 ||
		 memcmp(image->ids + snapshot->xcnt, snapshot->subxip, snapshot->subxcnt * sizeof(TransactionId)) == 0);
}

static void
remember_content(SnapshotImage *image, Snapshot snapshot)
{
	uint32		count = snapshot_ids(snapshot);

	if (count > image->space || image->ids == NULL)
	{
		uint32		space = Max(count, 16);

		if (image->ids != NULL)
			pfree(image->ids);
		image->ids = NULL;
		image->ids = MemoryContextAlloc(TopMemoryContext, space * sizeof(TransactionId));
		image->space = space;
	}
	image->xmin = snapshot->xmin;
	image->xmax = snapshot->xmax;
	image->command = snapshot->curcid;
	image->count = count;
	if (snapshot->xcnt > 0)
		memcpy(image->ids, snapshot->xip, snapshot->xcnt * sizeof(TransactionId));
	if (snapshot->subxcnt > 0)
		memcpy(image->ids + snapshot->xcnt, snapshot->subxip, snapshot->subxcnt * sizeof(TransactionId));
}

static DwReadsEntry *
entry_of(const char *name, int length)
{
	DwReadsEntry *entry;
	ListCell   *lc;
	MemoryContext old;

	foreach(lc, entries)
	{
		entry = lfirst(lc);
		if (entry->length == length && memcmp(entry->name, name, length) == 0)
			return entry;
	}
	old = MemoryContextSwitchTo(TopMemoryContext);
	entry = palloc0(sizeof(DwReadsEntry));
	entry->name = pnstrdup(name, length);
	entry->length = length;
	/* by name: a migration's id differs from server to server, its buckets should not */
	entry->seed = hash_bytes_extended((const unsigned char *) name, length, BUCKET_SEED);
	entries = lappend(entries, entry);
	MemoryContextSwitchTo(old);
	return entry;
}

/* A column of the migration's row, by name: upgrades may move them. */
static Datum
column(HeapTuple tuple, TupleDesc desc, const char *name)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, SPI_fnumber(desc, name), desc, &isnull);

	if (isnull)
		elog(ERROR, "column \"%s\" of _dualwrite.migration is null", name);
	return value;
}

static int
share_of(DwPhase phase, Datum read_percent)
{
	if (phase < DW_PHASE_READ_SWITCH)
		return 0;
	if (phase > DW_PHASE_READ_SWITCH)
		return DW_SHARE_ALL;
	return (int) rint(DatumGetFloat8(DirectFunctionCall1(numeric_float8, read_percent)) * (DW_SHARE_ALL / 100));
}

/* Look the migration up in its table, as the snapshot sees it.  No privileges are asked for: the state is no secret. */
static bool
read_entry(DwReadsEntry *entry, Snapshot snapshot)
{
	Oid			schema = get_namespace_oid("_dualwrite", false);
	Relation	rel = table_open(get_relname_relid("migration", schema), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, SPI_fnumber(desc, "name"), BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(cstring_to_text_with_len(entry->name, entry->length)));
	/* a table of a page or so: an index would cost more than it saves */
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		char	   *phase = TextDatumGetCString(column(tuple, desc, "phase"));

		entry->phase = dw_phase_from_name(phase);
		entry->share = share_of(entry->phase, column(tuple, desc, "read_percent"));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return HeapTupleIsValid(tuple);
}

/* A session or role may ask for a side (GUC dualwrite.read_side), where that side is current. */
static int
overridden(DwPhase phase, int share)
{
	char		side = dw_read_side_override();

	if (side == 'n' && phase >= DW_PHASE_READ_SWITCH)
		return DW_SHARE_ALL;
	if (side == 'o' && phase <= DW_PHASE_CUTOVER)
		return 0;
	return share;
}

DwReads
dw_reads_get(const char *migration, int length)
{
	DwReadsEntry *entry = entry_of(migration, length);
	Snapshot	snapshot = GetActiveSnapshot();

	if (!entry->known || !same_content(&entry->seen, snapshot))
	{
		entry->known = false;
		if (!read_entry(entry, snapshot))
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("migration \"%s\" does not exist", entry->name),
					 errhint("See dualwrite.status for the migrations of this database.")));
		remember_content(&entry->seen, snapshot);
		entry->known = true;
	}
	return (DwReads)
	{
		entry->phase, overridden(entry->phase, entry->share), entry->seed, entry
	};
}

/* Does the text form of a type depend on no setting? */
static bool
plain_output(Oid type)
{
	switch (type)
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case OIDOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case UUIDOID:
		case BOOLOID:
			return true;
		default:
			return false;
	}
}

/* Text form of a value, the same in every session whatever its settings. */
static char *
bucket_text(Oid type, Datum value)
{
	Oid			output;
	bool		varlena;
	char	   *text;
	int			nest;

	getTypeOutputInfo(type, &output, &varlena);
	if (plain_output(type))
		return OidOutputFunctionCall(output, value);
	nest = NewGUCNestLevel();
	for (const char *const *pin = (const char *const[]) {
				"DateStyle", "ISO, YMD",
				"IntervalStyle", "postgres",
				"TimeZone", "UTC",
				"extra_float_digits", "1",
				"bytea_output", "hex",
				"search_path", "pg_catalog, pg_temp", NULL
	}; *pin != NULL; pin += 2)
		(void) set_config_option(pin[0], pin[1], PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	text = OidOutputFunctionCall(output, value);
	AtEOXact_GUC(false, nest);
	return text;
}

uint64
dw_bucket_hash(uint64 hash, Oid type, Datum value, bool isnull)
{
	char	   *text;
	size_t		length;

	if (isnull)
		return hash_bytes_extended((const unsigned char *) "", 0, hash);
	type = getBaseType(type);
	text = bucket_text(type, value);
	length = strlen(text);
	if (type == BPCHAROID)		/* its padding is no part of it */
		while (length > 0 && text[length - 1] == ' ')
			length--;
	hash = hash_bytes_extended((const unsigned char *) text, length, hash);
	pfree(text);
	return hash;
}

bool
dw_reads_new(const DwReads *reads, uint64 hash)
{
	return (int) (hash % DW_SHARE_ALL) < reads->share;
}

/* No xid, which would be a write, and no lxid, which each version of the server keeps elsewhere. */
static uint64
transaction_hash(uint64 seed)
{
	struct
	{
		int64		start;
		int64		pid;
	}			id = {GetCurrentTransactionStartTimestamp(), MyProcPid};

	return hash_bytes_extended((const unsigned char *) &id, sizeof(id), seed);
}

bool
dw_reads_new_for_transaction(const DwReads *reads)
{
	DwReadsEntry *entry = reads->entry;
	bool		allowed = entry->pinned &&
		(entry->pinned_new ? reads->phase >= DW_PHASE_READ_SWITCH : reads->phase <= DW_PHASE_CUTOVER);

	/* whoever sets the override in the middle of a transaction wants it to be followed */
	if (dw_read_side_override() != 'a')
		return reads->share == DW_SHARE_ALL;
	if (!allowed)
	{
		entry->pinned_new = dw_reads_new(reads, transaction_hash(reads->seed));
		entry->pinned = true;
	}
	return entry->pinned_new;
}

/* What own writes a snapshot sees depends on the (sub)transaction too: know nothing any more when one ends. */
static void
forget(bool transaction_ends)
{
	ListCell   *lc;

	foreach(lc, entries)
	{
		DwReadsEntry *entry = lfirst(lc);

		entry->known = false;
		if (transaction_ends)
			entry->pinned = false;
	}
	if (!transaction_ends || list_length(entries) <= MAX_ENTRIES)
		return;
	foreach(lc, entries)
	{
		DwReadsEntry *entry = lfirst(lc);

		if (entry->seen.ids != NULL)
			pfree(entry->seen.ids);
		pfree(entry->name);
	}
	list_free_deep(entries);
	entries = NIL;
}

static void
transaction_callback(XactEvent event, void *arg)
{
	(void) arg;
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE ||
		event == XACT_EVENT_PARALLEL_COMMIT || event == XACT_EVENT_PARALLEL_ABORT)
		forget(true);
}

static void
subtransaction_callback(SubXactEvent event, SubTransactionId me, SubTransactionId parent, void *arg)
{
	(void) me;
	(void) parent;
	(void) arg;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget(false);
}

/* From _PG_init. */
void
dw_readside_init(void)
{
	RegisterXactCallback(transaction_callback, NULL);
	RegisterSubXactCallback(subtransaction_callback, NULL);
}
