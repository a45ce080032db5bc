/*
 * share.c: which share of the time a comparison works while applications want the machine.
 *
 * While client sessions are at work, slices are short, and there are rests within each and behind it, so that all processes
 * of the comparison together work for reconcile_share percent of the time.  While there are none, it goes as fast as it can.
 * Nothing here waits.
 */
#include "postgres.h"

#include "settings.h"
#include "share.h"
#include "throttle.h"
#include "worker.h"

/*
 * A slice in company is to have so much work, ms, as beginning and ending a step (claiming a range, noting how far it got) is
 * about a millisecond of it; but it holds its snapshot, and locks for reading, no longer than the other, however much it rests.
 */
#define DW_SLICE_IN_COMPANY_MS 20
#define DW_SNAPSHOT_IN_COMPANY_MS 100

DwShare
dw_share_begin(int32 migration_id, bool helper)
{
	int			sharing = dw_worker_sharing(migration_id, DW_ROLE_RECONCILE, NULL);
	double		percent = (double) dw_setting_int(migration_id, "reconcile_share");
	DwShare		share;

	if (helper && sharing > 1)
		sharing--;
	share.ratio = percent >= 100 ? 1 : percent / 100 / sharing;
	share.rested_us = 0;
	share.company = share.ratio < 1 && dw_throttle_in_company();
	INSTR_TIME_SET_CURRENT(share.start);
	return share;
}

int
dw_share_slice_ms(const DwShare *share, int longest_ms)
{
	if (!share->company)
		return longest_ms;
	return Min(longest_ms, (int) Min(DW_SLICE_IN_COMPANY_MS / share->ratio, DW_SNAPSHOT_IN_COMPANY_MS));
}

double
dw_share_within_slice(const DwShare *share)
{
	return share->company ? share->ratio : 1;
}

long
dw_share_rest(const DwShare *share)
{
	instr_time	now;
	double		took_ms;

	if (share->ratio >= 1 || !dw_throttle_in_company())
		return 0;
	INSTR_TIME_SET_CURRENT(now);
	INSTR_TIME_SUBTRACT(now, share->start);
	took_ms = INSTR_TIME_GET_MILLISEC(now) - share->rested_us / 1000.0;
	/* it was long because there was nobody, who came later */
	if (!share->company)
		took_ms = Min(took_ms, DW_SLICE_IN_COMPANY_MS);
	return Max(1, dw_throttle_rest(took_ms, share->ratio) - share->rested_us / 1000);
}
