/*
 * actions.c: as whom triggers fire on the tables that foreign keys write.
 *
 * Whoever may reference a table can have its foreign key cascade to a table of his own, with triggers of his own.  The server fires
 * AFTER triggers as the role that wrote the referenced table.  For a mirrored row that is the table's owner, who did not ask for
 * it, and must lend his rights to nobody: a cascade to a table of somebody else goes on with the rights of that one.
 *
 * Nothing is locked here: a trigger that somebody adds before the cascade is there fires as him all the same.
 */
#include "postgres.h"

#include "actions.h"
#include "owner.h"
#include "usercode.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/syscache.h"

/* What one action may come to. */
typedef struct Reach
{
	List	   *tables;			/* OIDs, those looked at and those still to do */
	List	   *coders;			/* owners of tables with triggers */
	Oid			other;			/* a role without the rights of the first table's owner that owns one of them */
	bool		code;			/* so does one of the coders */
} Reach;

static bool
is_action_function(Oid function)
{
	switch (function)
	{
		case F_RI_FKEY_CASCADE_DEL:
		case F_RI_FKEY_CASCADE_UPD:
		case F_RI_FKEY_SETNULL_DEL:
		case F_RI_FKEY_SETNULL_UPD:
		case F_RI_FKEY_SETDEFAULT_DEL:
		case F_RI_FKEY_SETDEFAULT_UPD:
			return true;
		default:
			return false;
	}
}

bool
dw_is_action(const Trigger *trigger)
{
	return is_action_function(trigger->tgfoid);
}

DwActions *
dw_actions_of(Relation rel)
{
	TriggerDesc *triggers = CopyTriggerDesc(rel->trigdesc);
	DwActions  *actions;
	bool		any = false;

	if (triggers == NULL)
		return NULL;
	actions = palloc0(sizeof(DwActions));
	actions->triggers = triggers;
	actions->as_of = InvalidFullTransactionId;
	actions->users = palloc0(sizeof(Oid) * triggers->numtriggers);
	for (int i = 0; i < triggers->numtriggers; i++)
	{
		bool		action = dw_is_action(&triggers->triggers[i]) && triggers->triggers[i].tgenabled != TRIGGER_DISABLED;

		triggers->triggers[i].tgenabled = action ? TRIGGER_FIRES_ALWAYS : TRIGGER_DISABLED;
		actions->users[i] = action ? rel->rd_rel->relowner : InvalidOid;
		any |= action;
	}
	return any ? actions : NULL;
}

/* It is written, with its partitions. */
static void
add_table(Reach *reach, Oid relid)
{
	if (!list_member_oid(reach->tables, relid))
		reach->tables = list_concat_unique_oid(reach->tables, find_all_inheritors(relid, NoLock, NULL));
}

/* What actions on this table write is added; does other code of users fire after it is written? */
static bool
follow_triggers(Reach *reach, Relation pg_trigger, Oid relid)
{
	bool		code = false;
	ScanKeyData of_table;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&of_table, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	scan = systable_beginscan(pg_trigger, TriggerRelidNameIndexId, true, NULL, 1, &of_table);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Form_pg_trigger trigger = (Form_pg_trigger) GETSTRUCT(tuple);

		if (is_action_function(trigger->tgfoid))
			add_table(reach, trigger->tgconstrrelid);
		else
			code |= !trigger->tgisinternal && TRIGGER_FOR_AFTER(trigger->tgtype) &&
				trigger->tgenabled != TRIGGER_DISABLED && !dw_is_own_function(trigger->tgfoid);
	}
	systable_endscan(scan);
	return code;
}

static void
look_at(Reach *reach, Relation pg_trigger, Oid relid, Oid first_owner)
{
	bool		code = follow_triggers(reach, pg_trigger, relid);
	Oid			owner;

	/* tables are not locked, and one may be gone */
	if (!SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)))
		return;
	owner = dw_relation_owner(relid);
	if (code)
		reach->coders = list_append_unique_oid(reach->coders, owner);
	if (has_privs_of_role(owner, first_owner))
		return;
	reach->code |= code;
	if (!OidIsValid(reach->other))
		reach->other = owner;
}

/* A role whose rights all of these have; InvalidOid without one. */
static Oid
least_of(List *roles)
{
	ListCell   *lc;

	foreach(lc, roles)
	{
		ListCell   *other;
		bool		least = true;

		foreach(other, roles)
			least &= has_privs_of_role(lfirst_oid(other), lfirst_oid(lc));
		if (least)
			return lfirst_oid(lc);
	}
	return InvalidOid;
}

/* As whom triggers fire that an action on a table of this owner sets off. */
static Oid
user_of(const Reach *reach, Oid owner)
{
	Oid			user = owner;

	if (reach->code)
		user = least_of(reach->coders);
	else if (OidIsValid(reach->other))
		user = reach->other;
	if (!OidIsValid(user))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("a foreign key cascades to tables of role \"%s\" and of others, which have triggers",
						GetUserNameFromId(linitial_oid(reach->coders), false)),
				 errdetail("Triggers of one of them would fire with the rights of another."),
				 errhint("Give these tables to one role.")));
	return user;
}

void
dw_actions_look_up(DwActions *actions, Oid owner)
{
	FullTransactionId current = GetTopFullTransactionId();
	Relation	pg_trigger;

	if (FullTransactionIdIsValid(actions->as_of) && FullTransactionIdEquals(actions->as_of, current))
		return;
	pg_trigger = table_open(TriggerRelationId, AccessShareLock);
	actions->code = false;
	for (int i = 0; i < actions->triggers->numtriggers; i++)
	{
		Trigger    *trigger = &actions->triggers->triggers[i];
		Reach		reach = {NIL, NIL, InvalidOid, false};

		if (!OidIsValid(actions->users[i]))
			continue;
		add_table(&reach, trigger->tgconstrrelid);
		for (int j = 0; j < list_length(reach.tables); j++)
			look_at(&reach, pg_trigger, list_nth_oid(reach.tables, j), owner);
		actions->users[i] = user_of(&reach, owner);
		actions->code |= reach.code;
	}
	table_close(pg_trigger, AccessShareLock);
	actions->as_of = current;
}
