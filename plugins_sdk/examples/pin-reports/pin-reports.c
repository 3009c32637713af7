/*
 * pin-reports: sends reports to one place. A statement on a table whose name begins with "report", or
 * from an application named "reports", goes to a standby; or to the node that the configuration
 * names: [config] node = "pg2".
 */
#include "headgate.h"

static char node[64];
static u32 node_length;

HG_EXPORT(plugin_init) u64 plugin_init(char *input, u32 length) {
  hg_text name = hg_string(hg_get((hg_text){input, length}, "node"));
  if (name.length > sizeof(node)) return hg_block("pin-reports: the node's name is too long");
  for (u32 i = 0; i < name.length; i++) node[i] = name.data[i];
  node_length = name.length;
  return HG_PASS;
}

static int is_report(hg_text name) {
  static const char word[] = "report";
  hg_text last = name;
  for (u32 i = 0; i < name.length; i++)
    if (name.data[i] == '.') last = (hg_text){name.data + i + 1, name.length - i - 1};
  if (last.length < 6) return 0;
  for (u32 i = 0; i < 6; i++)
    if (last.data[i] != word[i]) return 0;
  return 1;
}

HG_EXPORT(route) u64 route(char *input, u32 length) {
  hg_text envelope = {input, length};
  if (!hg_is(hg_get(envelope, "is_read_only"), "true")) return HG_PASS;
  hg_text context = hg_get(envelope, "hook_context");
  hg_text application = hg_string(hg_get(hg_get(context, "attributes"), "application_name"));
  int found = hg_is(application, "reports");
  hg_text list = hg_get(envelope, "tables");
  for (u32 at = 0; !found;) {
    hg_text item = hg_next(list, &at);
    if (item.length == 0) break;
    found = is_report(hg_string(item));
  }
  if (!found) return HG_PASS;
  hg_begin();
  if (node_length) {
    hg_put("{\"action\":\"node\",\"target\":\"");
    hg_escaped((hg_text){node, node_length});
    hg_put("\"}");
  } else hg_put("{\"action\":\"standby\"}");
  return hg_answer();
}
