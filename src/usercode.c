/*
 * usercode.c: does writing a row run anything that somebody wrote in this database?
 *
 * Such code runs as the table's owner, and must not find functions or operators of whoever happens to write in its
 * search_path.  Pinning the path costs as much as a small write, so it is done only where the answer is yes.
 */
#include "postgres.h"

#include "usercode.h"

#include "access/transam.h"
#include "catalog/namespace.h"
#include "commands/trigger.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"
#include "utils/partcache.h"

bool
dw_is_own_function(Oid function)
{
	return get_func_namespace(function) == get_namespace_oid("_dualwrite", true);
}

/* By its name first: of most triggers that says enough. */
bool
dw_is_own_trigger(const Trigger *trigger)
{
	return !trigger->tgisinternal && strstr(trigger->tgname, "dualwrite_") == trigger->tgname + 1 &&
		dw_is_own_function(trigger->tgfoid);
}

bool
dw_has_other_trigger(Relation rel, bool (*wanted) (const Trigger *trigger))
{
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
	bool		found = false;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers && !found; i++)
		found = wanted(&triggers->triggers[i]) && !dw_is_own_trigger(&triggers->triggers[i]);
	FreeTriggerDesc(triggers);
	return found;
}

static bool
is_user_function(Oid function, void *context)
{
	(void) context;
	return function >= FirstNormalObjectId;
}

static bool
calls_user_function(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, CoerceToDomain) || check_functions_in_node(node, is_user_function, NULL))
		return true;
	return expression_tree_walker(node, calls_user_function, context);
}

static bool
constraints_run_user_code(TupleConstr *constr)
{
	for (int i = 0; constr != NULL && i < constr->num_check; i++)
		if (calls_user_function(stringToNode(constr->check[i].ccbin), NULL))
			return true;
	for (int i = 0; constr != NULL && i < constr->num_defval; i++)
		if (calls_user_function(stringToNode(constr->defval[i].adbin), NULL))
			return true;
	return false;
}

/* Internal triggers are those of foreign keys, which see to themselves; ours are in C. */
static bool
runs_user_code(const Trigger *trigger)
{
	return !trigger->tgisinternal &&
		(trigger->tgenabled == TRIGGER_FIRES_ALWAYS || trigger->tgenabled == TRIGGER_FIRES_ON_REPLICA);
}

bool
dw_relation_runs_user_code(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped && TupleDescAttr(desc, i)->atttypid >= FirstNormalObjectId)
			return true;
	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
	{
		PartitionKey key = RelationGetPartitionKey(rel);

		if (key->partexprs != NIL)
			return true;
		for (int i = 0; i < key->partnatts; i++)
			if (key->partopfamily[i] >= FirstNormalObjectId)
				return true;
	}
	return constraints_run_user_code(desc->constr) || dw_has_other_trigger(rel, runs_user_code);
}

bool
dw_indexes_run_user_code(ResultRelInfo *rri)
{
	for (int i = 0; i < rri->ri_NumIndices; i++)
	{
		IndexInfo  *info = rri->ri_IndexRelationInfo[i];
		Relation	index = rri->ri_IndexRelationDescs[i];

		if (calls_user_function((Node *) info->ii_Expressions, NULL) ||
			calls_user_function((Node *) info->ii_Predicate, NULL))
			return true;
		for (int k = 0; k < info->ii_NumIndexKeyAttrs; k++)
			if (index->rd_opfamily[k] >= FirstNormalObjectId)
				return true;
	}
	return false;
}
