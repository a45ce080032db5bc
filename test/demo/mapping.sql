-- array_to_string is not marked immutable, because there are arrays whose elements print in the session's format. Text does not.
CREATE FUNCTION joined(list text[]) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
	AS $$ SELECT array_to_string(list, ', ') $$;

-- Columns not named here take the old column of the same name: id, name, version, architecture, priority, homepage, description.
SELECT dualwrite.create_migration('packages', 'packages', 'package',
	forward => $json${
		"maintainer_name": "coalesce(substring(maintainer from '^(.*) <[^<>]+>$'), maintainer)",
		"maintainer_mail": "substring(maintainer from '^.* <([^<>]+)>$')",
		"installed_kb": "installed_size::numeric",
		"area": "split_part(section, '/', 1)",
		"section": "split_part(section, '/', 2)",
		"depends": "coalesce(string_to_array(depends, ', '), '{}')",
		"tags": "string_to_array(tag, ', ')",
		"bytes": "size::bigint",
		"sha256": "decode(sha256, 'hex')",
		"seen_at": "seen AT TIME ZONE 'UTC'"
	}$json$,
	reverse => $json${
		"maintainer": "CASE WHEN maintainer_mail IS NULL THEN maintainer_name ELSE maintainer_name || ' <' || maintainer_mail || '>' END",
		"installed_size": "installed_kb::text",
		"section": "area || '/' || section",
		"depends": "nullif(joined(depends), '')",
		"tag": "joined(tags)",
		"size": "bytes::text",
		"sha256": "encode(sha256, 'hex')",
		"seen": "seen_at AT TIME ZONE 'UTC'"
	}$json$);
