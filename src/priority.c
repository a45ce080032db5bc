/*
 * priority.c: how a background process stands to others where they want the same processor.
 *
 * A process may lower its priority and, without privileges, never raise it again.  So this is for processes that do nothing
 * but what is not urgent, and it must never be asked for by one that holds locks which applications wait for: a lock is held
 * for as long as its holder waits for a processor.
 */
#include "postgres.h"

#include "priority.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

/*
 * Linux may weigh sessions (setsid) against each other before it looks at the nice values within each: see sched(7), "The
 * autogroup feature".  Each process of PostgreSQL is a session of its own, so there a nice value says nothing, and what
 * counts is this file's.  Elsewhere it does not exist.
 */
#define DW_AUTOGROUP_FILE "/proc/self/autogroup"

/* false: try again later.  The kernel takes no more than one of these in a tenth of a second, from all processes together. */
static bool
lower_session(int nice)
{
	int			file = open(DW_AUTOGROUP_FILE, O_WRONLY | O_CLOEXEC);
	char		text[12];
	bool		done;

	if (file < 0)
		return true;
	snprintf(text, sizeof(text), "%d", nice);
	done = write(file, text, strlen(text)) >= 0 || (errno != EAGAIN && errno != EINTR);
	close(file);
	return done;
}

bool
dw_priority_lower(int nice)
{
	static bool begun = false;
	static int	inherited;		/* the postmaster's own */
	static int	current;
	static int	of_session;		/* last told to the kernel */

	if (!begun)
	{
		inherited = current = getpriority(PRIO_PROCESS, 0);
		of_session = 0;
		begun = true;
	}
	if (nice <= 0 || nice < inherited)
		nice = inherited;
	if (nice < current)
		return false;
	if (nice > current && setpriority(PRIO_PROCESS, 0, nice) == 0)
		current = nice;
	if (current > inherited && of_session != current && lower_session(current))
		of_session = current;
	return true;
}
