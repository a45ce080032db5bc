/*
 * inserts.h: when a table last got a key, in this transaction.
 */
#ifndef DW_INSERTS_H
#define DW_INSERTS_H

#include "dualwrite.h"

/* An event is at hand that tells of a key that came into the table (not a leaf). */
extern void dw_inserts_event(Oid root);
/* A mirrored write gives it one now: after all that the statement itself has done. */
extern void dw_inserts_mirrored(Oid root);
/* Did it get one after this command? */
extern bool dw_inserts_since(Oid root, CommandId command);
extern void dw_inserts_init(void);

#endif							/* DW_INSERTS_H */
