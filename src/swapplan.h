/*
 * swapplan.h: what a swap of names would do, and what cannot follow the name.
 */
#ifndef DW_SWAPPLAN_H
#define DW_SWAPPLAN_H

#include "catalog.h"

/* A statement to be run at the swap, and the one that takes it back. */
typedef struct DwSwapStep
{
	char	   *object;			/* what it is about, in words */
	char	   *statement;		/* names in it are those that objects have at this point of the swap */
	char	   *undo;			/* the same for the way back */
	char	   *run_as;			/* role; NULL: the extension's owner */
	bool		rename;			/* renames come first, and the way back insists on them */
	Oid			relation;		/* what is renamed or replaced: to be locked; InvalidOid: the tables' locks do */
	char	   *during;			/* with rename: name that the relation has while names are swapped */
} DwSwapStep;

/* Something that stands in the way, or would stay with the old table. */
typedef struct DwSwapProblem
{
	char	   *object;
	char	   *problem;		/* no full stop */
	char	   *hint;			/* a sentence */
	bool		refused;		/* no waiver helps */
} DwSwapProblem;

typedef struct DwSwapPlan
{
	MemoryContext context;		/* everything in the plan lives here */
	List	   *steps;			/* of DwSwapStep, in order */
	List	   *problems;		/* of DwSwapProblem */
	List	   *asides;			/* qualified names that old things will get */
} DwSwapPlan;

/*
 * Look at what the system catalogs say now.  Changes nothing and takes no lock on users' tables.  A migration whose names are
 * swapped already, or that has no pair of tables to swap, has an empty plan.
 */
extern DwSwapPlan *dw_swap_plan(const DwMigration *migration);

/* Problems of one kind as text: "object: problem; …"; NULL when there are none. */
extern char *dw_swap_problems(const DwSwapPlan *plan, bool refused);

#endif							/* DW_SWAPPLAN_H */
