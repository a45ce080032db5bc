# What tests need that bring their server down by killing one of its processes.
package Crash;

use strict;
use warnings;
use Exporter qw(import);
use Time::HiRes qw(usleep);

our @EXPORT = qw(wait_for_server poll_through_crash);

# Wait until a server that restarts by itself takes connections.  psql must not be asked: it hangs up on a server in recovery
# before it has read its input, which is the end of the test.
sub wait_for_server
{
	my ($node) = @_;

	for (1 .. 1800)
	{
		return if system('pg_isready', '-q', '-h', $node->host, '-p', $node->port) == 0;
		usleep(100_000);
	}
	die 'the server did not come back';
}

# poll_query_until while a crash may come at any moment: a psql that is hung up on is asked again.
sub poll_through_crash
{
	my ($node, @query) = @_;

	for (1 .. 100)
	{
		my $found = eval { $node->poll_query_until(@query) };

		return $found if defined $found;
		wait_for_server($node);
	}
	die 'the server crashes again and again';
}

1;
