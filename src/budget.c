/*
 * budget.c: limits in rows and bytes a second that several processes keep together.
 *
 * Who begins a piece of work books it, as a debt of the migration that wears off at the rate of the limit; nobody begins
 * while there is debt.  So the workers together keep to the limit whatever their number, a new limit counts at once, and
 * nothing is left behind by a worker that dies.  What nobody used is lost but for a moment's worth, so that waking a little
 * late every time does not make a slower rate of it.
 *
 * Nothing here waits, and nothing raises an error.
 */
#include "postgres.h"

#include "budget.h"
#include "shmem.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/timestamp.h"

/* The most that can be had in advance, in seconds of the rate. */
#define DW_CREDIT_S 0.01

/* Of this process alone, where there is no shared memory or no room left in it. */
static DwBudgetSlot own;

/* The migration's slot, under the lock; the one that has been out of use for longest where it has none. */
static DwBudgetSlot *
find_budget(DwShared *shared, int32 migration_id)
{
	DwBudgetSlot *oldest = NULL;

	for (int i = 0; i < DW_BUDGET_SLOTS; i++)
	{
		DwBudgetSlot *slot = &shared->budgets[i];

		if (slot->database == MyDatabaseId && slot->migration_id == migration_id)
			return slot;
		if (oldest == NULL || slot->at < oldest->at)
			oldest = slot;
	}
	memset(oldest, 0, sizeof(DwBudgetSlot));
	oldest->database = MyDatabaseId;
	oldest->migration_id = migration_id;
	return oldest;
}

static double
worn_off(double debt, double rate, double seconds)
{
	if (rate <= 0)
		return 0;
	return Max(-rate * DW_CREDIT_S, debt - rate * seconds);
}

static void
wear_off(DwBudgetSlot *slot, const DwRates *rates)
{
	TimestampTz now = GetCurrentTimestamp();
	double		seconds = Max(0, (now - slot->at) / 1000000.0);

	slot->rows = worn_off(slot->rows, rates->rows, seconds);
	slot->bytes = worn_off(slot->bytes, rates->bytes, seconds);
	slot->at = now;
}

static long
ms_of_debt(const DwBudgetSlot *slot, const DwRates *rates)
{
	double		ms = 0;

	if (rates->rows > 0)
		ms = Max(ms, slot->rows * 1000 / rates->rows);
	if (rates->bytes > 0)
		ms = Max(ms, slot->bytes * 1000 / rates->bytes);
	return (long) ceil(Min(ms, INT_MAX));
}

typedef long (*DwBudgetUse) (DwBudgetSlot *slot, const DwRates *rates, double rows, double bytes);

static long
with_budget(int32 migration_id, DwBudgetUse use, const DwRates *rates, double rows, double bytes)
{
	DwShared   *shared = dw_shared();
	long		result;

	if (shared == NULL)
		return use(&own, rates, rows, bytes);
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	result = use(find_budget(shared, migration_id), rates, rows, bytes);
	LWLockRelease(&shared->lock);
	return result;
}

static long
book(DwBudgetSlot *slot, const DwRates *rates, double rows, double bytes)
{
	long		ms;

	wear_off(slot, rates);
	ms = ms_of_debt(slot, rates);
	if (ms == 0)
	{
		slot->rows += rates->rows > 0 ? rows : 0;
		slot->bytes += rates->bytes > 0 ? bytes : 0;
	}
	return ms;
}

static long
correct(DwBudgetSlot *slot, const DwRates *rates, double rows, double bytes)
{
	slot->rows += rates->rows > 0 ? rows : 0;
	slot->bytes += rates->bytes > 0 ? bytes : 0;
	return 0;
}

static long
look(DwBudgetSlot *slot, const DwRates *rates, double rows, double bytes)
{
	(void) rows;
	(void) bytes;
	wear_off(slot, rates);
	return ms_of_debt(slot, rates);
}

long
dw_budget_book(int32 migration_id, const DwRates *rates, double rows, double bytes)
{
	return with_budget(migration_id, book, rates, rows, bytes);
}

void
dw_budget_correct(int32 migration_id, const DwRates *rates, double rows, double bytes)
{
	(void) with_budget(migration_id, correct, rates, rows, bytes);
}

long
dw_budget_wait(int32 migration_id, const DwRates *rates)
{
	return with_budget(migration_id, look, rates, 0, 0);
}
