/*
 * Sends reports to one place: plain reads of report tables, or by report programs. Writes and what
 * stands in an open transaction go where they would go without it.
 *
 *   tables        names, with a schema or without, "*" at the end for any ending of it;
 *                 ["report*", "orders_report"]
 *   applications  application_name; ["reports"]
 *   to            "standby" (default) or "primary"
 *   node          a node's name, in place of `to`
 */
#include "../../c/headgate.h"

#define MAX_NAMES 64

typedef struct {
  hg_text names[MAX_NAMES];
  hg_size count;
} name_list;

static char storage[8192];
static hg_size used;
static name_list tables, applications;
static hg_text node; /* at = 0: any standby */
static int to_primary;

#define REFUSED(reason) HG_CONSTANT("{\"action\":\"block\",\"value\":\"config: " reason "\"}")

static int keep(hg_text text, hg_text *kept) {
  if (text.size == 0 || used + text.size > sizeof storage) return 0;
  memcpy(storage + used, text.at, text.size);
  *kept = (hg_text){storage + used, text.size};
  used += text.size;
  return 1;
}

static int keep_list(hg_text config, const char *name, hg_text usual, name_list *list) {
  hg_text value = hg_member(config, name), element;
  const char *step = 0;
  list->count = 0;
  if (value.at == 0) value = usual;
  if (!hg_is_array(value)) return 0;
  while (hg_next(value, &step, &element)) {
    if (list->count == MAX_NAMES) return 0;
    if (!keep(hg_string(element), &list->names[list->count++])) return 0;
  }
  return 1;
}

HG_EXPORT("plugin_init") hg_answer plugin_init(const char *at, hg_size size) {
  hg_begin();
  hg_text config = {at, size}, to = hg_member(config, "to"), name = hg_member(config, "node");
  used = 0;
  node = (hg_text){0, 0};
  if (!keep_list(config, "tables", HG_LITERAL("[\"report*\",\"orders_report\"]"), &tables))
    return REFUSED("tables is no list of names; expected as [\\\"reports\\\"], 64 at most");
  if (!keep_list(config, "applications", HG_LITERAL("[\"reports\"]"), &applications))
    return REFUSED("applications is no list of names; expected as [\\\"reports\\\"], 64 at most");
  to_primary = hg_says(to, HG_LITERAL("primary"));
  if (to.at != 0 && !to_primary && !hg_says(to, HG_LITERAL("standby")))
    return REFUSED("to is not known; expected standby or primary");
  if (name.at != 0 && !keep(hg_string(name), &node))
    return REFUSED("node is no name; expected one of the configured nodes");
  return HG_DEFAULT;
}

static int is_like(hg_text name, hg_text pattern) {
  if (pattern.at[pattern.size - 1] != '*') return hg_same(name, pattern);
  hg_size size = pattern.size - 1;
  for (hg_size i = size; i < name.size; i++)
    if (name.at[i] == '.') return 0;
  return name.size >= size && memcmp(name.at, pattern.at, size) == 0;
}

/* A name without a schema is that of a table in any. */
static int is_named(hg_text table, const name_list *list) {
  hg_text last = table;
  for (hg_size i = 0; i < table.size; i++)
    if (table.at[i] == '.') last = (hg_text){table.at + i + 1, table.size - i - 1};
  for (hg_size i = 0; i < list->count; i++)
    if (is_like(table, list->names[i]) || is_like(last, list->names[i])) return 1;
  return 0;
}

static int is_report(hg_text envelope) {
  hg_text list = hg_member(envelope, "tables"), element;
  const char *step = 0;
  while (hg_next(list, &step, &element))
    if (is_named(hg_string(element), &tables)) return 1;
  if (applications.count == 0) return 0;
  hg_text application = hg_attribute(envelope, "application_name");
  for (hg_size i = 0; i < applications.count; i++)
    if (hg_same(application, applications.names[i])) return 1;
  return 0;
}

HG_EXPORT("route") hg_answer route(const char *at, hg_size size) {
  hg_begin();
  hg_text envelope = {at, size};
  if (!hg_is_true(hg_member(envelope, "is_read_only")) ||
      hg_is_true(hg_member(envelope, "in_transaction")) || !is_report(envelope))
    return HG_DEFAULT;
  if (node.at != 0) return hg_route_to_node(node);
  if (to_primary) return HG_CONSTANT("{\"action\":\"primary\"}");
  return HG_CONSTANT("{\"action\":\"standby\"}");
}
