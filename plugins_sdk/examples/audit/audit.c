/*
 * audit: is told how every statement went. Counts them, and logs those that failed or that changed
 * something, without their texts.
 */
#include "headgate.h"

HG_EXPORT(post_query) void post_query(char *input, u32 length) {
  hg_text pair = {input, length};
  u32 at = 0;
  hg_text context = hg_next(pair, &at);
  hg_text outcome = hg_next(pair, &at);
  int is_read = hg_is(hg_get(context, "is_read_only"), "true");
  int success = hg_is(hg_get(outcome, "success"), "true");
  hg_count("statements", 1);
  if (!success) hg_count("failures", 1);
  if (is_read && success) return;
  hg_text who = hg_get(context, "hook_context");
  hg_begin();
  hg_raw(hg_string(hg_get(who, "identity")));
  hg_put(success ? " changed " : " failed ");
  hg_raw(hg_get(context, "tables"));
  hg_put(" kind=");
  hg_raw(hg_string(hg_get(context, "kind")));
  hg_put(" rows=");
  hg_raw(hg_get(outcome, "rows"));
  hg_put(" sqlstate=");
  hg_raw(hg_get(outcome, "sqlstate"));
  hg_log(success ? 1 : 2, (hg_text){hg_output, hg_output_length});
}
