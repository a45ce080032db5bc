/*
 * share.c: which share of the time a comparison works while applications want the machine.
 *
 * While client sessions are at work, slices are short and each is followed by a rest, outside of any transaction, so that
 * all processes of the comparison together work for reconcile_share percent of the time.  While there are none, it goes as fast as
 * it can.  Nothing here waits.
 */
#include "postgres.h"

#include "settings.h"
#include "share.h"
#include "throttle.h"
#include "worker.h"

/*
 * Length of a slice in company, ms.  What an application notices is how long it had to do with one processor less, so this
 * is short; the rest of a step (claiming a range, noting how far it got) is about a millisecond.
 */
#define DW_SLICE_IN_COMPANY_MS 20

DwShare
dw_share_begin(int32 migration_id, bool helper)
{
	int			sharing = dw_worker_sharing(migration_id, DW_ROLE_RECONCILE, NULL);
	double		percent = (double) dw_setting_int(migration_id, "reconcile_share");
	DwShare		share;

	if (helper && sharing > 1)
		sharing--;
	share.ratio = percent >= 100 ? 1 : percent / 100 / sharing;
	share.company = share.ratio < 1 && dw_throttle_in_company();
	INSTR_TIME_SET_CURRENT(share.start);
	return share;
}

int
dw_share_slice_ms(const DwShare *share, int longest_ms)
{
	return share->company ? Min(longest_ms, DW_SLICE_IN_COMPANY_MS) : longest_ms;
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
	took_ms = INSTR_TIME_GET_MILLISEC(now);
	/* it was long because there was nobody, who came later */
	if (!share->company)
		took_ms = Min(took_ms, DW_SLICE_IN_COMPANY_MS);
	return Max(1, dw_throttle_rest(took_ms, share->ratio));
}
