# README.md shows what psql shows: the session in README is the one that the regress test readme runs, line by line.
#
# README: lines that begin with "=> " or "-> " are typed, the rest is output. expected/readme.out: what is typed is echoed as it is.
# Blank lines do not count.

use strict;
use warnings;
use FindBin;
use Test::More;

my $top = "$FindBin::Bin/../..";

sub contents
{
	my ($file) = @_;

	open my $handle, '<', "$top/$file" or die "$file: $!";
	local $/;
	return <$handle>;
}

# Between two marks, without blank lines and spaces at the end.
sub part
{
	my ($text, $begin, $end) = @_;

	$text =~ /\Q$begin\E\n(.*?)\Q$end\E/s or return "nothing between $begin and $end\n";
	return join "\n", grep { length } map { s/\s+$//r } split /\n/, $1;
}

my $shown = part(contents('README.md'), "```psql", "```");
my $run = part(contents('expected/readme.out'), '-- README: begin', '-- README: end');

is($shown =~ s/^(?:=|-)> //mgr, $run, 'README.md shows what psql shows');
is(() = $shown =~ /^=> /mg, 10, 'ten statements');
done_testing();
