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
	TupleTableSlot *old_row;	/* NULL for INSERT */
	TupleTableSlot *new_row;	/* NULL for DELETE */
	bool		stale;			/* this transaction has written the row again since: converge instead */
	CommandId	command;		/* that deleted the old version; for deletes */
} DwRowEvent;

/* Mirror it through one mapping. */
extern void dw_mirror_row(DwCompiled *compiled, DwDirection direction, DwTable *table, const DwRowEvent *event);
/* The statement is over: bring the keys to agreement that were put off, close what was kept open for it. */
extern void dw_mirror_flush(Relation rel);
/* Before TRUNCATE of rel. */
extern void dw_mirror_truncate(DwCompiled *compiled, DwDirection direction, DwTable *table, Relation rel);
extern void dw_mirror_init(void);

#endif							/* DW_MIRROR_H */
