/*
 * settings.h: every setting, its default, unit and meaning, in one table.
 */
#ifndef DW_SETTINGS_H
#define DW_SETTINGS_H

#include "dualwrite.h"

/* Per-migration value, else the server-wide one (GUC dualwrite.<name>), else the built-in default. */
extern int64 dw_setting_int(int32 migration_id, const char *name);	/* times in ms, sizes in bytes */
extern double dw_setting_real(int32 migration_id, const char *name);
extern bool dw_setting_bool(int32 migration_id, const char *name);
extern const char *dw_setting_string(int32 migration_id, const char *name);	/* palloc'd */

/* ERROR 22023 for a name or value that is none, with the names that exist as hint. */
extern void dw_setting_check(const char *name, const char *value);

/* GUC dualwrite.read_side of this session: 'a'uto, 'o'ld, 'n'ew. */
extern char dw_read_side_override(void);

/*
 * Server-wide values that a compiled mapping holds (mirror_on_error, shadow_discard) changed in this backend: the number
 * differs from when the mapping was compiled.
 */
extern uint32 dw_settings_generation(void);

/* Only server-wide: background processes of this server at a time. */
extern int	dw_max_workers(void);

/* For the view: the i-th setting, server-wide; false past the last.  Strings are palloc'd or constant. */
typedef struct DwSettingInfo
{
	const char *name;
	const char *value;
	const char *default_value;	/* built in */
	const char *unit;			/* NULL: none */
	const char *meaning;
} DwSettingInfo;

extern bool dw_setting_describe(int i, DwSettingInfo *info);
/* ERROR 22023 where the setting is only server-wide; otherwise as dw_setting_check. */
extern void dw_setting_check_migration(const char *name, const char *value);

extern void dw_settings_init(void);

#endif							/* DW_SETTINGS_H */
