/*
 * compat.h: what differs between PostgreSQL 15, 17 and 18.  The only file that may look at PG_VERSION_NUM.
 */
#ifndef DW_COMPAT_H
#define DW_COMPAT_H

#include "postgres.h"

#include "access/genam.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/attmap.h"
#include "access/tupconvert.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "nodes/parsenodes.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"

/* 16: onlySummarizing, for updates that touch no column of any but a summarizing index. */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes DwIndexUpdate;
#define DW_NO_INDEXES	TU_None
#define dw_insert_index_entries(rri, slot, estate, update, nodup, conflict, arbiters, which) \
	ExecInsertIndexTuples(rri, slot, estate, update, nodup, conflict, arbiters, (which) == TU_Summarizing)
#define DW_ALL_INDEXES	TU_All
#else
typedef bool DwIndexUpdate;
#define DW_NO_INDEXES	false
#define DW_ALL_INDEXES	true
#define dw_insert_index_entries(rri, slot, estate, update, nodup, conflict, arbiters, which) \
	((void) (which), ExecInsertIndexTuples(rri, slot, estate, update, nodup, conflict, arbiters))
#endif

/* 18: instrumentation of index scans. */
#if PG_VERSION_NUM >= 180000
#define dw_index_beginscan(heap, index, snapshot, nkeys) index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define dw_index_beginscan(heap, index, snapshot, nkeys) index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* 16: the table, for logging; 17: no snapshot. */
#if PG_VERSION_NUM >= 160000
#define dw_bt_search(index, heap, key, buffer) _bt_search(index, heap, key, buffer, BT_READ)
#else
#define dw_bt_search(index, heap, key, buffer) ((void) (heap), _bt_search(index, key, buffer, BT_READ, NULL))
#endif

/* 18: the tuple that is being updated, NULL for inserts. */
#if PG_VERSION_NUM >= 180000
#define dw_check_index_constraints(rri, slot, estate, tid, arbiters) \
	ExecCheckIndexConstraints(rri, slot, estate, tid, NULL, arbiters)
#else
#define dw_check_index_constraints(rri, slot, estate, tid, arbiters) \
	ExecCheckIndexConstraints(rri, slot, estate, tid, arbiters)
#endif

/* 16: permissions moved out of the range table.  18: list of partitions that survived pruning. */
static inline void
dw_init_range_table(EState *estate, RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	List	   *perminfos = NIL;

	addRTEPermissionInfo(&perminfos, rte);
#if PG_VERSION_NUM >= 180000
	ExecInitRangeTable(estate, list_make1(rte), perminfos, bms_make_singleton(1));
#else
	ExecInitRangeTable(estate, list_make1(rte), perminfos);
#endif
#else
	ExecInitRangeTable(estate, list_make1(rte));
#endif
}

/* 16: the columns that a statement sets are noted with its permissions. */
static inline void
dw_set_written_columns(EState *estate, Bitmapset *columns)
{
	Bitmapset  *shifted = NULL;
	int			attno = -1;

	while ((attno = bms_next_member(columns, attno)) >= 0)
		shifted = bms_add_member(shifted, attno - FirstLowInvalidHeapAttributeNumber);
#if PG_VERSION_NUM >= 160000
	{
		RTEPermissionInfo *perminfo = linitial_node(RTEPermissionInfo, estate->es_rteperminfos);

		perminfo->insertedCols = shifted;
		perminfo->updatedCols = shifted;
	}
#else
	{
		RangeTblEntry *rte = linitial_node(RangeTblEntry, estate->es_range_table);

		rte->insertedCols = shifted;
		rte->updatedCols = shifted;
	}
#endif
}

/* 16: result of the tuple lock and, 17, whether MERGE asks. */
static inline bool
dw_before_update_triggers(EState *estate, EPQState *epq, ResultRelInfo *rri, ItemPointer tid, TupleTableSlot *slot)
{
#if PG_VERSION_NUM >= 180000
	return ExecBRUpdateTriggers(estate, epq, rri, tid, NULL, slot, NULL, NULL, false);
#elif PG_VERSION_NUM >= 160000
	return ExecBRUpdateTriggers(estate, epq, rri, tid, NULL, slot, NULL, NULL);
#else
	return ExecBRUpdateTriggers(estate, epq, rri, tid, NULL, slot, NULL);
#endif
}

static inline bool
dw_before_delete_triggers(EState *estate, EPQState *epq, ResultRelInfo *rri, ItemPointer tid)
{
#if PG_VERSION_NUM >= 180000
	return ExecBRDeleteTriggers(estate, epq, rri, tid, NULL, NULL, NULL, NULL, false);
#elif PG_VERSION_NUM >= 160000
	return ExecBRDeleteTriggers(estate, epq, rri, tid, NULL, NULL, NULL, NULL);
#else
	return ExecBRDeleteTriggers(estate, epq, rri, tid, NULL, NULL);
#endif
}

/* 16: whether columns may be missing. */
#if PG_VERSION_NUM >= 160000
#define dw_attrmap_if_required(in, out) build_attrmap_by_name_if_req(in, out, false)
#else
#define dw_attrmap_if_required(in, out) build_attrmap_by_name_if_req(in, out)
#endif

/* 16: one function for all kinds of objects. */
#if PG_VERSION_NUM >= 160000
#define dw_owns_relation(relid, user) object_ownercheck(RelationRelationId, relid, user)
#else
#define dw_owns_relation(relid, user) pg_class_ownercheck(relid, user)
#endif

/* 18: virtual generated columns. */
#if PG_VERSION_NUM >= 180000
#define dw_is_virtual(att) ((att)->attgenerated == ATTRIBUTE_GENERATED_VIRTUAL)
#define dw_expand_virtual_columns(node, rel) expand_generated_columns_in_expr(node, rel, 1)
#else
#define dw_is_virtual(att) ((void) (att), false)
#define dw_expand_virtual_columns(node, rel) (node)
#endif

/* 16: attribute maps are executed on slots under the same name; the opclass of an index column is found by attno. */
#if PG_VERSION_NUM >= 160000
#define dw_relfilenode(rel) ((rel)->rd_locator.relNumber)
#else
#define dw_relfilenode(rel) ((rel)->rd_node.relNode)
#endif

/* 16: entries of the backend status, counted from 1, under another name. */
#if PG_VERSION_NUM >= 160000
#define dw_backend_status(i) pgstat_get_local_beentry_by_index(i)
#else
#define dw_backend_status(i) pgstat_fetch_stat_local_beentry(i)
#endif

/* 16: why a slot was invalidated instead of where. */
#if PG_VERSION_NUM >= 160000
#define dw_slot_is_lost(slot) ((slot)->data.invalidated != RS_INVAL_NONE)
#else
#define dw_slot_is_lost(slot) \
	(XLogRecPtrIsInvalid((slot)->data.restart_lsn) && !XLogRecPtrIsInvalid((slot)->data.invalidated_at))
#endif

/* 16: what a statement reads of a table, and as whom, is noted with its permissions. */
static inline Bitmapset *
dw_selected_columns(const Query *query, const RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	return rte->perminfoindex == 0 ? NULL :
		getRTEPermissionInfo(query->rteperminfos, (RangeTblEntry *) rte)->selectedCols;
#else
	(void) query;
	return rte->selectedCols;
#endif
}

static inline Oid
dw_check_as_user(const Query *query, const RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	return rte->perminfoindex == 0 ? InvalidOid :
		getRTEPermissionInfo(query->rteperminfos, (RangeTblEntry *) rte)->checkAsUser;
#else
	(void) query;
	return rte->checkAsUser;
#endif
}

/* For an entry that is no longer a table. */
static inline void
dw_forget_permissions(RangeTblEntry *rte)
{
#if PG_VERSION_NUM >= 160000
	rte->perminfoindex = 0;
#else
	rte->requiredPerms = 0;
	rte->selectedCols = NULL;
	rte->checkAsUser = InvalidOid;
#endif
}

/* 18: whether a plan is run once only is no longer said. */
#if PG_VERSION_NUM >= 180000
#define DW_RUN_ONCE_PARAMETER
#define DW_RUN_ONCE_ARGUMENT
#define DW_RUN_ONCE_TRUE
#else
#define DW_RUN_ONCE_PARAMETER	, bool execute_once
#define DW_RUN_ONCE_ARGUMENT	, execute_once
#define DW_RUN_ONCE_TRUE		, true
#endif

/* 18: EXPLAIN's state has a header of its own. */
#if PG_VERSION_NUM >= 180000
#include "commands/explain_state.h"
#endif

/* 17: the sequence of an identity column is asked for with the relation. */
#if PG_VERSION_NUM >= 170000
#define dw_identity_argument(rel) (rel)
#else
#define dw_identity_argument(rel) RelationGetRelid(rel)
#endif

/* 16: foreign tables can have TRUNCATE triggers. */
#if PG_VERSION_NUM >= 160000
#define DW_FOREIGN_TRUNCATE_TRIGGERS true
#else
#define DW_FOREIGN_TRUNCATE_TRIGGERS false
#endif

#endif							/* DW_COMPAT_H */
