/*
 * usercode.h: does writing a row run anything that somebody wrote in this database?
 */
#ifndef DW_USERCODE_H
#define DW_USERCODE_H

#include "dualwrite.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"
#include "utils/reltrigger.h"

/* Is it one of the extension's?  Users may name theirs like ours. */
extern bool dw_is_own_trigger(const Trigger *trigger);
/*
 * Columns of types, constraints, defaults, generated columns, partition keys and triggers of the relation itself.
 * Says yes when in doubt.
 */
extern bool dw_relation_runs_user_code(Relation rel);
/* Expressions, predicates and operator classes of its indexes, which are open in rri. */
extern bool dw_indexes_run_user_code(ResultRelInfo *rri);

#endif							/* DW_USERCODE_H */
