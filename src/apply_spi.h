/*
 * apply_spi.h: the engine of prepared statements.
 */
#ifndef DW_APPLY_SPI_H
#define DW_APPLY_SPI_H

#include "apply.h"

extern const DwEngine dw_statement_engine;

#endif							/* DW_APPLY_SPI_H */
