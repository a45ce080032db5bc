/*
 * mirror.h: a row event on one side, made on the other.
 */
#ifndef DW_MIRROR_H
#define DW_MIRROR_H

#include "mapping.h"
#include "commands/trigger.h"

/* A row event: what a trigger saw, in the layout of the table (not of the leaf). */
typedef struct DwRowEvent
{
	TriggerEvent event;
	Relation	rel;			/* as fired */
	DwTable    *table;
	TupleTableSlot *old_row;	/* NULL for INSERT */
	TupleTableSlot *new_row;	/* NULL for DELETE */
	bool		stale;			/* this transaction has written the row again since: its image is history */
	bool		truncated;		/* about to be truncated: the source row is still there */
	ItemPointer version;		/* where the old row is; NULL for INSERT and foreign tables */
	ItemPointer stored;			/* where a version of it is, in rel; NULL for foreign tables, and where no trigger was fired */
	bool		moving;			/* DELETE half of an update that moves the row to another partition */
} DwRowEvent;

/* Mirror it through one mapping.  Errors are the target's own, with context; or they are queued, by policy. */
extern void dw_mirror_row(DwFlow *flow, const DwRowEvent *event);
/* The source row depends on a row that was just written elsewhere: it is converged, or, where somebody holds it, queued. */
extern void dw_mirror_dependent(DwFlow *flow, const DwKey *source_key);
/* A row that cannot be mirrored because the mapping does not compile, in shadow: count it. */
extern void dw_mirror_broken(DwCompiled *compiled);
/* The statement on this table is over: do what was put off until now, close what was kept open for it. */
extern void dw_mirror_flush(void);
/* TRUNCATE of rel, which is the source of flow or a leaf of it, is about to happen. */
extern void dw_mirror_truncate(DwFlow *flow, DwTable *table, Relation rel);
/* Is a mirrored TRUNCATE going on?  Then the triggers of its target keep still. */
extern bool dw_truncating(void);
extern void dw_mirror_init(void);

#endif							/* DW_MIRROR_H */
