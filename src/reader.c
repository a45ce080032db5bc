/*
 * reader.c: rows of a heap, some pages at a time, and whether they are still what was read.
 *
 * Reads as a sequential scan does, from a copy of each page, but never prunes: history is read once, and a scan that prunes
 * writes to pages that nobody else may touch for years.  (The hint bits of rows that nobody has read since they were
 * written are set, as by any reader.)
 *
 * Whether a row is still what was read is answered page by page where it can be.  Whoever updates, deletes or locks a row of
 * a permanent table logs that, which moves the page's LSN on before he lets go of the page; so while the LSN is the one
 * that was read, each row whose xmax was invalid then has no other version and nobody at it.  That holds whatever wal_level
 * says: WAL is left out only for a relation that the writing transaction has itself made or rewritten, and locked until its
 * end.  Hint bits, pruning and freezing may move the LSN on as well; then, and for rows with an xmax, each row is looked at
 * by itself: exactly that version, no chain.
 *
 * It must never write to the heap or wait for anybody.
 */
#include "postgres.h"

#include "reader.h"

#include "access/heapam.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/snapmgr.h"

/* A page as it was read. */
typedef struct DwPage
{
	BlockNumber block;
	XLogRecPtr	lsn;
	uint32		looked;			/* when it was last looked at again */
	bool		unchanged;		/* what was seen then */
	PGAlignedBlock *copy;
} DwPage;

typedef struct DwRow
{
	HeapTupleData tuple;		/* in the copy of its page */
	int16		page;
	bool		settled;		/* nobody had been at it */
} DwRow;

struct DwReader
{
	Relation	heap;
	Snapshot	snapshot;
	BufferAccessStrategy strategy;	/* a large heap must not push everything else out of shared buffers */
	BlockNumber next;
	BlockNumber end;
	uint32		look;			/* counts the calls of look_again */
	TupleTableSlot *slot;
	TupleTableSlot *look_slot;
	int			npages;
	int			nrows;
	DwPage		pages[DW_CHUNK_PAGES];
	DwRow		rows[DW_READER_ROWS];
};

DwReader *
dw_reader_open(Relation heap, Snapshot snapshot, int64 from, int64 end)
{
	DwReader   *reader = palloc0(sizeof(DwReader));
	BlockNumber blocks = RelationGetNumberOfBlocks(heap);

	reader->heap = heap;
	reader->snapshot = snapshot;
	reader->strategy = blocks > (BlockNumber) NBuffers / 4 ? GetAccessStrategy(BAS_BULKREAD) : NULL;
	reader->next = (BlockNumber) from;
	reader->end = (BlockNumber) end;
	reader->slot = MakeSingleTupleTableSlot(RelationGetDescr(heap), &TTSOpsHeapTuple);
	reader->look_slot = table_slot_create(heap, NULL);
	return reader;
}

void
dw_reader_close(DwReader *reader)
{
	ExecDropSingleTupleTableSlot(reader->slot);
	ExecDropSingleTupleTableSlot(reader->look_slot);
	for (int i = 0; i < DW_CHUNK_PAGES; i++)
		if (reader->pages[i].copy != NULL)
			pfree(reader->pages[i].copy);
	if (reader->strategy != NULL)
		FreeAccessStrategy(reader->strategy);
	pfree(reader);
}

int64
dw_reader_position(const DwReader *reader)
{
	return reader->next;
}

void
dw_reader_rewind(DwReader *reader, int64 block)
{
	ExecClearTuple(reader->slot);
	reader->nrows = 0;
	reader->npages = 0;
	reader->next = (BlockNumber) block;
}

/* Note the tuple if the snapshot sees it.  Under the page's share lock: the look may set hint bits. */
static void
read_tuple(DwReader *reader, Page page, OffsetNumber offset, Buffer buffer, bool all_visible)
{
	ItemId		item = PageGetItemId(page, offset);
	DwRow	   *row = &reader->rows[reader->nrows];
	HeapTuple	tuple = &row->tuple;

	if (!ItemIdIsNormal(item))
		return;
	tuple->t_data = (HeapTupleHeader) PageGetItem(page, item);
	tuple->t_len = ItemIdGetLength(item);
	tuple->t_tableOid = RelationGetRelid(reader->heap);
	ItemPointerSet(&tuple->t_self, BufferGetBlockNumber(buffer), offset);
	if (!all_visible && !HeapTupleSatisfiesVisibility(tuple, reader->snapshot, buffer))
		return;
	row->settled = (tuple->t_data->t_infomask & HEAP_XMAX_INVALID) != 0;
	row->page = reader->npages;
	reader->nrows++;
}

static void
read_page(DwReader *reader)
{
	DwPage	   *copy = &reader->pages[reader->npages];
	int			first = reader->nrows;
	Buffer		buffer = ReadBufferExtended(reader->heap, MAIN_FORKNUM, reader->next, RBM_NORMAL, reader->strategy);
	Page		page = BufferGetPage(buffer);
	bool		all_visible;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	all_visible = PageIsAllVisible(page) && !reader->snapshot->takenDuringRecovery;
	for (OffsetNumber offset = FirstOffsetNumber; offset <= PageGetMaxOffsetNumber(page); offset++)
		read_tuple(reader, page, offset, buffer, all_visible);
	if (reader->nrows > first)
	{
		copy->block = reader->next;
		copy->lsn = PageGetLSN(page);
		copy->looked = reader->look;
		copy->unchanged = false;
		memcpy(copy->copy->data, page, BLCKSZ);
		for (int i = first; i < reader->nrows; i++)
			reader->rows[i].tuple.t_data = (HeapTupleHeader)
				(copy->copy->data + ((char *) reader->rows[i].tuple.t_data - (char *) page));
		reader->npages++;
	}
	UnlockReleaseBuffer(buffer);
}

int
dw_reader_next(DwReader *reader)
{
	BlockNumber blocks = RelationGetNumberOfBlocks(reader->heap);

	ExecClearTuple(reader->slot);
	reader->nrows = 0;
	reader->npages = 0;
	while (reader->next < Min(reader->end, blocks) && reader->nrows < DW_CHUNK_ROWS && reader->npages < DW_CHUNK_PAGES)
	{
		CHECK_FOR_INTERRUPTS();
		if (reader->pages[reader->npages].copy == NULL)
			reader->pages[reader->npages].copy =
				MemoryContextAlloc(GetMemoryChunkContext(reader), sizeof(PGAlignedBlock));
		read_page(reader);
		reader->next++;
	}
	if (reader->next >= blocks)
		reader->next = reader->end;
	return reader->nrows;
}

TupleTableSlot *
dw_reader_row(DwReader *reader, int i)
{
	return ExecStoreHeapTuple(&reader->rows[i].tuple, reader->slot, false);
}

void
dw_reader_look_again(DwReader *reader)
{
	reader->look++;
}

/* Is the page's LSN the one that was read?  Asked once a look. */
static bool
page_unchanged(DwReader *reader, DwPage *page)
{
	Buffer		buffer;

	if (page->looked == reader->look)
		return page->unchanged;
	buffer = ReadBufferExtended(reader->heap, MAIN_FORKNUM, page->block, RBM_NORMAL, reader->strategy);
	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page->unchanged = PageGetLSN(BufferGetPage(buffer)) == page->lsn;
	UnlockReleaseBuffer(buffer);
	page->looked = reader->look;
	return page->unchanged;
}

bool
dw_reader_unchanged(DwReader *reader, int i)
{
	DwRow	   *row = &reader->rows[i];
	SnapshotData dirty;
	bool		found;

	if (row->settled && RelationIsPermanent(reader->heap) && page_unchanged(reader, &reader->pages[row->page]))
		return true;
	InitDirtySnapshot(dirty);
	found = table_tuple_fetch_row_version(reader->heap, &row->tuple.t_self, &dirty, reader->look_slot);
	ExecClearTuple(reader->look_slot);
	return found && !TransactionIdIsValid(dirty.xmin) && !TransactionIdIsValid(dirty.xmax);
}
