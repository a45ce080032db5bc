/*
 * statement.h: what the mirror keeps open for the length of one statement of the application.
 */
#ifndef DW_STATEMENT_H
#define DW_STATEMENT_H

#include "converge.h"
#include "stats.h"

#include "utils/resowner.h"

/* A key that is brought to agreement when the statement is over. */
typedef struct DwPostponed
{
	int32		mapping_id;
	DwDirection direction;
	bool		truncated;		/* the source row is about to go, but still there */
	bool		impatient;		/* a source row that somebody holds is queued, not waited for */
	int			depth;			/* of triggers: the statement that it waits for the end of */
	bool		done;			/* waits no more */
	bool		moved;			/* from another key: */
	DwKey	   *from_key;		/* copied, no larger than the key, as is */
	DwKey	   *source_key;
	DwCounter	counter;		/* what bringing it to agreement counts as */
} DwPostponed;

/* Keys that wait, with memory of their own, as there may be very many in turn. */
typedef struct DwPending
{
	List	   *keys;			/* of DwPostponed */
	MemoryContext memory;
	struct HTAB *by_key;		/* private to pending.c */
} DwPending;

/*
 * One for each subtransaction in which mirrors have run since its last statement ended, and a further one for what is
 * written from within a mirrored write.
 */
typedef struct DwStatement
{
	SubTransactionId subid;
	bool		busy;			/* being worked on: what a trigger of a target writes meanwhile has one of its own */
	ResourceOwner owner;		/* of everything kept open: the subtransaction's */
	MemoryContext context;
	List	   *open;			/* private */
	DwPending	postponed;
	int			following;		/* depth of writes that follow others */
	DwPending	moving;			/* rows between the two halves of a move to another partition */
	DwPending	moves;			/* rows whose key changed, when nothing is absorbed */
	DwPending	cascaded;		/* rows whose counterparts foreign keys of the target have written */
	uint64		events;			/* mirrored so far */
	Oid			version_of;		/* table (or leaf) of the last version that an event left behind, and where that is */
	ItemPointerData version;
	bool		call_queued;	/* cascade.c: we are called with this version again */
	int			call_depth;		/* of triggers, where the call comes */
	Oid			call_of;
	ItemPointerData call_version;
	uint64		events_at_call;
	List	   *gathers;		/* private to gather.c */
	int			gathered;		/* rows that are still to be written */
	uint64		gather_ns;		/* what gathering them took */
	bool		gather_full;	/* it is time to */
	bool		deleting;		/* they are deletes */
	int			interrupted;	/* how often they had to be written early */
	struct DwGather *gathering; /* where the event in hand goes; NULL: it is written at once */
} DwStatement;

/* That of the current subtransaction that is not busy, made when there is none. */
extern DwStatement *dw_statement_get(void);
/* The same, or NULL. */
extern DwStatement *dw_statement_find(void);
/* The one that is busy, that is, whose mirrored write is going on; NULL without any. */
extern DwStatement *dw_statement_busy(void);
/* Opened on first use, closed with the statement.  The statement's resource owner must be current. */
extern DwTarget *dw_statement_target(DwStatement *statement, DwFlow *flow);
extern DwConverge *dw_statement_converge(DwStatement *statement, DwFlow *flow);
/* The same, for converging that waits for nobody. */
extern DwConverge *dw_statement_converge_nowait(DwStatement *statement, DwFlow *flow);
/* Flows of other mappings that a write to this flow's target has to go on to. */
extern List *dw_statement_followers(DwFlow *flow);
/* dw_fillers_of and dw_shares_target, remembered. */
extern List *dw_statement_fillers(DwFlow *flow);
extern bool dw_statement_shares_target(DwFlow *flow);
extern DwPostponed *dw_statement_postpone(DwStatement *statement, DwPending *pending, DwFlow *flow, const DwKey *source_key);
extern DwPostponed *dw_statement_postpone_move(DwStatement *statement, DwPending *pending, DwFlow *flow,
											   const DwKey *from, const DwKey *to);
/* Do events of this flow wait for the end of the statement, their errors to be absorbed? */
extern bool dw_postpones(const DwFlow *flow);
/* from: the key that the row had before, or NULL. */
extern DwPostponed *dw_postpone(DwStatement *statement, DwFlow *flow, const DwKey *from, const DwKey *source_key);
/* Close everything; forgets what is still postponed. */
extern void dw_statement_close(DwStatement *statement);
/* on_leftover is called, before a (sub)transaction commits, for a statement that nobody closed. */
extern void dw_statement_init(void (*on_leftover) (DwStatement *statement));

#endif							/* DW_STATEMENT_H */
