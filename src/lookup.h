/*
 * lookup.h: rows by unique key, in a plain or partitioned table.
 */
#ifndef DW_LOOKUP_H
#define DW_LOOKUP_H

#include "mapping.h"
#include "access/genam.h"
#include "access/tableam.h"
#include "nodes/execnodes.h"

typedef struct DwLeaf
{
	Oid			relid;			/* hash key */
	Relation	rel;			/* without partitions: the root, which is opened and closed once */
	Relation	index;			/* the key's index on this leaf */
	ResultRelInfo *rri;			/* for partition checks and, once opened for writing, for writes */
	TupleTableSlot *slot;		/* row last found, in the leaf's layout */
	TupleTableSlot *write_slot;	/* row to be written, in the leaf's layout; virtual */
	AttrMap    *from_root;		/* for leaf layout <- root layout; NULL where they look the same */
	AttrMap    *to_root;
	Oid			index_oid;
	IndexScanDesc scan;			/* kept, and rescanned for each look-up */
	bool		on_page;		/* it rests on a page */
	struct DwProbe *probe;		/* finds most rows without the scan; made when first needed */
	int			looked_up;		/* newest rows, so far */
	struct DwStride *stride;	/* finds the next one without the scan, when many have been looked up */
	ScanKeyData scankey[INDEX_MAX_KEYS];
	int			key_position[INDEX_MAX_KEYS];	/* of each index column in DwKey */
	bool		prepared;		/* rri has the triggers that a mirrored write fires */
	struct DwActions *actions;	/* once it is: what foreign keys to it do, CASCADE and the like; NULL without any */
	bool		writable;		/* indexes are open for inserts */
	Oid		   *indexes;		/* those of rri, which are closed now; NULL: not known yet */
} DwLeaf;

/* A table opened for look-ups; lives in the memory context and resource owner current at open. */
typedef struct DwLookup
{
	const DwKeyShape *shape;
	Relation	root;
	bool		partitioned;
	LOCKMODE	lock;
	EState	   *estate;
	ResultRelInfo *root_rri;
	bool		hurried;		/* between dw_lookup_hurry and dw_lookup_rest */
	List	   *heaps;			/* OIDs of the leaves */
	List	   *leaves;			/* of DwLeaf, opened so far */
	DwLeaf	   *last;			/* leaf that matched last: the likeliest to match again */
	SnapshotData dirty;
	TupleDesc	desc;			/* of the root; a copy, which nothing has to hold on to */
	TupleTableSlot *key_slot;	/* root layout: routes a key to its leaf */
	TupleTableSlot *root_slot;	/* row found, in the root's layout */
	MemoryContext context;
} DwLookup;

typedef enum DwFind
{
	DW_FIND_NONE,
	DW_FIND_FOUND,
	DW_FIND_BUSY				/* in progress in another transaction, and the caller did not want to wait */
} DwFind;

extern DwLookup *dw_lookup_open(const DwKeyShape *shape, LOCKMODE lock);
extern void dw_lookup_close(DwLookup *lookup);
/*
 * Let go of relations, scans and rows, keeping what has been worked out about them; and take them up again, with the same
 * locks, under the resource owner then current.  Not for partitioned tables.  Whoever keeps a lookup has to forget it
 * when one of its relations changes.
 */
extern void dw_lookup_let_go(DwLookup *lookup);
extern void dw_lookup_take_up(DwLookup *lookup);

/*
 * Newest version of the row with this key, committed or our own; a version in progress elsewhere is waited for, or
 * reported as busy.  On FOUND, *leaf and (*leaf)->slot hold it.  "None" is exact only while the caller holds what
 * PROTOCOLS' invariant asks for, or with confirm = true.
 */
extern DwFind dw_lookup_newest(DwLookup *lookup, const DwKey *key, bool wait, bool confirm, DwLeaf **leaf);
/* Many look-ups come at once, without anything between them that could wait: the page of the last row is kept until dw_lookup_rest. */
extern void dw_lookup_hurry(DwLookup *lookup);
extern void dw_lookup_rest(DwLookup *lookup);
/* The row that an MVCC snapshot sees. */
extern bool dw_lookup_visible(DwLookup *lookup, const DwKey *key, Snapshot snapshot, DwLeaf **leaf);
/*
 * Newest version, locked FOR NO KEY UPDATE (strong: FOR UPDATE).  wait = false: NOWAIT.  Rows that this transaction itself wrote are returned without
 * locking.
 */
extern DwFind dw_lookup_lock(DwLookup *lookup, const DwKey *key, bool wait, bool strong, DwLeaf **leaf);
/* The row last found in a leaf, in the root's layout. */
extern TupleTableSlot *dw_leaf_row(DwLookup *lookup, DwLeaf *leaf);
/* A root-layout row in the leaf's layout: the slot itself, or the leaf's write_slot. */
extern TupleTableSlot *dw_leaf_layout(DwLeaf *leaf, TupleTableSlot *root_row);
/* Leaf that would hold a row (root layout) with these partition key columns; where none would: NULL, or ERROR 23514. */
extern DwLeaf *dw_lookup_leaf_for(DwLookup *lookup, TupleTableSlot *row, bool must);
/* Leaf by OID. */
extern DwLeaf *dw_lookup_leaf(DwLookup *lookup, Oid relid);

#endif							/* DW_LOOKUP_H */
