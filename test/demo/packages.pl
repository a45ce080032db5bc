#!/usr/bin/perl
#
# packages.pl: from the format of "apt-cache dumpavail" (RFC 822 paragraphs) to the text format of COPY.
#
# One line a paragraph; its fields in the order of @fields. A field that continues on further lines becomes one line, a
# missing one \N. Bytes that are not UTF-8 become U+FFFD. Nothing is left out for looking odd.

use strict;
use warnings;
use Encode ();

my @fields = qw(package version architecture maintainer installed-size section priority depends homepage
	description tag size sha256);

# A value as COPY wants it.
sub escaped
{
	my ($value) = @_;

	return '\N' unless defined $value;
	$value = Encode::encode('UTF-8', Encode::decode('UTF-8', $value, Encode::FB_DEFAULT));
	$value =~ s/\\/\\\\/g;
	$value =~ s/\t/\\t/g;
	$value =~ s/\r/\\r/g;
	$value =~ s/\0//g;
	return $value;
}

$/ = '';				# a paragraph at a time
binmode STDIN;
binmode STDOUT;
while (my $paragraph = <STDIN>)
{
	my %value;

	chomp $paragraph;
	$paragraph =~ s/\n[ \t]+/ /g;	# continuation lines
	for my $line (split /\n/, $paragraph)
	{
		next unless $line =~ /^([^\s:]+):\s*(.*?)\s*$/;
		$value{lc $1} //= $2;
	}
	next unless defined $value{package};
	$value{section} = "main/$value{section}" if defined $value{section} && $value{section} !~ m{/};
	print join("\t", map { escaped($value{$_}) } @fields), "\n";
}
