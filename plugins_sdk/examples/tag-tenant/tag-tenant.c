/*
 * tag-tenant: puts a comment in front of every statement that says for whom it runs, so that
 * pg_stat_activity and the server's log show it:  SELECT 1  ->  slash-star tenant=shop,user=alice ...
 *
 * The tenant is the attribute tenant_id that an authenticate hook gave, else the database's name.
 */
#include "headgate.h"

static void put_safe(hg_text text) { /* no comment may end early: only letters, digits, _ . - */
  for (u32 i = 0; i < text.length && i < 64; i++) {
    char c = text.data[i];
    int plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                c == '_' || c == '.' || c == '-';
    hg_raw((hg_text){plain ? &c : "_", 1});
  }
}

HG_EXPORT(rewrite) u64 rewrite(char *input, u32 length) {
  hg_text envelope = {input, length};
  hg_text kind = hg_get(envelope, "kind");
  if (kind.length == 9 && hg_is(kind, "\"unknown\"")) return HG_PASS;
  hg_text query = hg_get(envelope, "query");
  if (query.length < 2 || query.length + 256 > HG_OUTPUT_MAX) return HG_PASS;
  hg_text context = hg_get(envelope, "hook_context");
  hg_text tenant = hg_string(hg_get(hg_get(context, "attributes"), "tenant_id"));
  if (tenant.length == 0) tenant = hg_string(hg_get(context, "database"));
  hg_text user = hg_string(hg_get(context, "identity"));
  hg_begin();
  hg_put("{\"action\":\"rewrite\",\"value\":\"/* tenant=");
  put_safe(tenant);
  hg_put(",user=");
  put_safe(user);
  hg_put(" */ ");
  /* The text is already a JSON string: what stands between its quotes can stay as it is. */
  hg_raw((hg_text){query.data + 1, query.length - 2});
  hg_put("\"}");
  return hg_answer();
}
