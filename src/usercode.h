/*
 * usercode.h: does writing a row run anything that somebody wrote in this database?
 */
#ifndef DW_USERCODE_H
#define DW_USERCODE_H

#include "dualwrite.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

/*
 * Is it one of the extension's?  Users may name theirs like ours.  Reads catalogs, and so may have the relation cache built
 * anew: the trigger must be of a copy, as the executor's are, never of rel->trigdesc itself.
 */
extern bool dw_is_own_trigger(const Trigger *trigger);
/* Is it a function of the extension's own triggers? */
extern bool dw_is_own_function(Oid function);
/* Has the relation a trigger that is not one of ours and is wanted?  wanted may read catalogs. */
extern bool dw_has_other_trigger(Relation rel, bool (*wanted) (const Trigger *trigger));
/*
 * Columns of types, constraints, defaults, generated columns, partition keys and triggers of the relation itself.
 * Says yes when in doubt.
 */
extern bool dw_relation_runs_user_code(Relation rel);
/* Expressions, predicates and operator classes of its indexes, which are open in rri. */
extern bool dw_indexes_run_user_code(ResultRelInfo *rri);

#endif							/* DW_USERCODE_H */
