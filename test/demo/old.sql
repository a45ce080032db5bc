-- The old table, as a hurried team made it: numbers as text, two things in one column, one list as one text.
CREATE TABLE packages (
	id serial PRIMARY KEY,
	name text,
	version text,
	architecture text,
	maintainer text,		-- Name <mail>
	installed_size text,	-- kB
	section text,			-- area/section
	priority text,
	depends text,			-- a, b (>= 1), c | d
	homepage text,
	description text,
	tag text,
	size text,				-- bytes
	sha256 text,
	seen timestamp			-- UTC, everybody knows that
);

-- The input as it comes; more copies of it for a bigger table.
CREATE TEMP TABLE input (
	name text, version text, architecture text, maintainer text, installed_size text, section text, priority text,
	depends text, homepage text, description text, tag text, size text, sha256 text
);
COPY input FROM :'file';
INSERT INTO packages (name, version, architecture, maintainer, installed_size, section, priority, depends, homepage,
		description, tag, size, sha256, seen)
SELECT name || CASE WHEN copy > 1 THEN '-copy' || copy ELSE '' END, version, architecture, maintainer, installed_size,
	section, priority, depends, homepage, description, tag, size, sha256,
	timestamp '2023-06-10 09:00' + row_number() OVER () * interval '1 second'
FROM generate_series(1, :copies) AS copy, input
LIMIT :rows;
CREATE INDEX ON packages (name);
VACUUM ANALYZE packages;
