-- The demo's own book-keeping, which knows nothing of dualwrite: each application notes, in the transaction of the write, what it
-- wrote. Whatever is in the ledger was accepted, and must be found on both sides.
CREATE SEQUENCE accepted_seq;
CREATE TABLE accepted_v1 (
	seq bigint DEFAULT nextval('accepted_seq'),	-- drawn while the row is locked: the order of writes to one key
	op text NOT NULL,		-- insert, update, delete
	id bigint NOT NULL,
	image text NOT NULL		-- checksum of what the row says
);
CREATE TABLE accepted_v2 (LIKE accepted_v1 INCLUDING DEFAULTS);

-- What a package says, in the words of the old table.
CREATE FUNCTION image(name text, version text, architecture text, maintainer text, installed_size text, section text,
	priority text, depends text, homepage text, description text, tag text, size text, sha256 text, seen timestamp)
RETURNS text LANGUAGE sql STABLE AS $$
	SELECT md5(concat_ws(E'\x1f', name, version, architecture, maintainer, coalesce(installed_size, '?'), section,
		coalesce(priority, '?'), coalesce(depends, '?'), coalesce(homepage, '?'), coalesce(description, '?'),
		coalesce(tag, '?'), coalesce(size, '?'), coalesce(sha256, '?'), seen::text))
$$;

-- Both tables in those words; no expression is shared with the mapping.
CREATE VIEW packages_said AS
SELECT id::bigint AS id, image(name, version, architecture, maintainer, installed_size, section, priority, depends, homepage,
	description, tag, size, sha256, seen) AS image
FROM packages;

CREATE VIEW package_said AS
SELECT id, image(name, version, architecture, concat(maintainer_name, ' <' || maintainer_mail || '>'),
	installed_kb::text, concat_ws('/', area, section), priority,
	CASE WHEN cardinality(depends) > 0 THEN array_to_string(depends, ', ') END, homepage, description,
	array_to_string(tags, ', '), bytes::text, encode(sha256, 'hex'), timezone('UTC', seen_at)) AS image
FROM package;

-- What was there before the first application wrote.
CREATE TABLE loaded AS SELECT id, image FROM packages_said;

-- What must be there now: the last accepted write of each key.
CREATE VIEW expected AS
SELECT id, image
FROM (
	SELECT DISTINCT ON (id) id, op, image
	FROM (
		SELECT 0 AS seq, 'load' AS op, id, image FROM loaded
		UNION ALL SELECT seq, op, id, image FROM accepted_v1
		UNION ALL SELECT seq, op, id, image FROM accepted_v2
	) AS written
	ORDER BY id, seq DESC
) AS last
WHERE op <> 'delete';

CREATE VIEW old_against_ledger AS
SELECT count(e.id) AS expected, count(s.id) AS "in old",
	count(*) FILTER (WHERE s.id IS NULL) AS missing, count(*) FILTER (WHERE e.id IS NULL) AS extra,
	count(*) FILTER (WHERE s.image <> e.image) AS different
FROM expected AS e FULL JOIN packages_said AS s ON s.id = e.id;

CREATE VIEW new_against_ledger AS
SELECT count(e.id) AS expected, count(s.id) AS "in new",
	count(*) FILTER (WHERE s.id IS NULL) AS missing, count(*) FILTER (WHERE e.id IS NULL) AS extra,
	count(*) FILTER (WHERE s.image <> e.image) AS different
FROM expected AS e FULL JOIN package_said AS s ON s.id = e.id;
