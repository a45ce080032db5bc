/*
 * autoread.h: shadow reads that the application does not ask for.
 */
#ifndef DW_AUTOREAD_H
#define DW_AUTOREAD_H

extern void dw_autoread_init(void);

#endif							/* DW_AUTOREAD_H */
