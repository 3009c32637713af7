"""
The page at `/`: one file, nothing from elsewhere. It shows what /api says, and changes nothing.

The page itself holds no data and needs no token; it asks for one if the API does, and keeps it for
the browser's tab only.
"""

import base64
import hashlib
from typing import Final

_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--good:#2a8a4a;--bad:#c0392b;--dim:#888}
body{font:14px/1.45 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1rem 1.5rem}
h1{font-size:1.3rem;margin:.2rem 0 .8rem}h2{font-size:1rem;margin:1.6rem 0 .4rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .7rem .25rem 0;border-bottom:1px solid var(--line);
vertical-align:top}
th{font-weight:600;color:var(--dim)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.good{color:var(--good)}.bad{color:var(--bad)}.dim{color:var(--dim)}
#sum span{display:inline-block;margin-right:1.6rem}#sum b{font-size:1.15rem}
#problem{color:var(--bad)}form{margin:1rem 0}
"""

_SCRIPT: Final = """
"use strict";
const $=id=>document.getElementById(id);
let last=null;
function cell(v,kind){const td=document.createElement("td");td.textContent=v==null?"":String(v);
if(kind)td.className=kind;return td}
function table(id,heads,rows){const t=$(id);t.textContent="";const tr=document.createElement("tr");
for(const[h,k]of heads){const th=document.createElement("th");th.textContent=h;
if(k==="n")th.className="n";tr.append(th)}t.append(tr);
for(const row of rows){const r=document.createElement("tr");
row.forEach((v,i)=>r.append(Array.isArray(v)?cell(v[0],v[1]):cell(v,heads[i][1])));t.append(r)}
if(!rows.length){const r=document.createElement("tr");r.append(cell("none","dim"));t.append(r)}}
function size(n){if(n==null)return"";const u=["B","KiB","MiB","GiB","TiB"];let i=0;
while(n>=1024&&i<4){n/=1024;i++}return(i?n.toFixed(1):n)+" "+u[i]}
function micros(n){return n==null?"":n>=1000?(n/1000).toFixed(n>=10000?0:1)+" ms":n+" \\u00b5s"}
function when(s){return new Date(s*1000).toLocaleTimeString()}
async function api(path){const token=sessionStorage.getItem("token");
const r=await fetch(path,{headers:token?{Authorization:"Bearer "+token}:{}});
if(r.status===401){$("login").hidden=false;throw new Error("a token is needed")}
$("login").hidden=true;
if(!r.ok){let why=r.status;try{why=(await r.json()).error.why}catch(e){}throw new Error(why)}
return r.json()}
async function show(){const[s,n,p,g,e,f]=await Promise.all(["status","nodes","pools","plugins",
"events","refused?limit=20"].map(x=>api("/api/"+x)));
const sum=$("sum");sum.textContent="";const now=Date.now()/1000;
const rate=last&&now>last.t?Math.max(0,(s.queries-last.q)/(now-last.t)):null;
last={t:now,q:s.queries};
for(const[k,v,c]of[["",s.readiness.status,s.is_ready?"good":"bad"],["clients",s.clients],
["queries/s",rate==null?"\\u2026":rate.toFixed(0)],["queries",s.queries],["blocked",s.blocked],
["errors",s.errors],["median",micros(s.query_latency.p50_us)],["p99",micros(s.query_latency.p99_us)],
["memory",size(s.resident_bytes)],["workers",s.workers.length]]){
const x=document.createElement("span"),b=document.createElement("b");b.textContent=v;
if(c)b.className=c;x.append(b," "+k);sum.append(x)}
$("version").textContent=s.version;
table("nodes",[["node"],["address"],["state"],["role"],["lag","n"],["in use","n"],["reason"]],
n.nodes.map(x=>[x.name,x.host+":"+x.port,[x.is_up?"up":"down",x.is_up?"good":"bad"],x.role,
size(x.lag_bytes),x.active,x.last_error]));
table("pools",[["database"],["user"],["node"],["in use","n"],["idle","n"],["opening","n"],
["size","n"],["waiting","n"],["longest wait","n"],["state"]],
p.pools.map(x=>[x.database,x.user,x.node,x.sv_active,x.sv_idle,x.sv_opening,x.size,
[x.cl_waiting,x.cl_waiting?"n bad":"n"],x.maxwait_us?micros(x.maxwait_us):"",
x.is_paused?"paused":x.last_error]));
const rows=[];for(const x of g.plugins){const state=[x.error?x.status+": "+x.error:x.state||x.status,
x.status==="active"&&!x.error?"good":"bad"];const hooks=Object.entries(x.hook_stats);
if(!hooks.length)rows.push([x.name,x.version,state,x.hooks.join(", "),"","","","",""]);
hooks.forEach(([h,c],i)=>{const errors=Object.entries(c.errors).map(([k,v])=>k+" "+v).join(", ");
rows.push([i?"":x.name,i?"":x.version,i?"":state,h,c.calls,micros(c.latency.p50_us),
micros(c.latency.p99_us),Object.entries(c.decisions).map(([k,v])=>k+" "+v).join(", "),
[errors+(c.breaker&&c.breaker!=="closed"?" breaker "+c.breaker:""),"bad"]])})}
table("plugins",[["plugin"],["version"],["state"],["hook"],["calls","n"],["p50","n"],["p99","n"],
["decisions"],["errors"]],rows);
table("refused",[["time"],["user"],["database"],["plugin"],["sqlstate"],["message"],["statement"]],
f.refused.map(x=>[when(x.time_s),x.identity,x.database,x.plugin,x.sqlstate,x.message,x.statement]));
const ev=[...e.plugins.map(x=>[x.time_s,"plugin "+x.plugin+": "+x.kind+" "+(x.new_version||"")+" "+
x.message,x.kind.endsWith("failed")||x.kind==="drain_timeout"]),
...e.changes.map(x=>[x.time_s,x.who+" "+x.from+": "+x.action+" "+x.target+": "+x.result,
x.result!=="ok"])].sort((a,b)=>b[0]-a[0]).slice(0,20);
table("events",[["time"],["what"]],ev.map(x=>[when(x[0]),[x[1],x[2]?"bad":""]]));
table("causes",[["cause"],["count","n"]],Object.entries(s.events).sort((a,b)=>b[1]-a[1]))}
async function turn(){try{await show();$("problem").textContent=""}
catch(e){$("problem").textContent=e.message}setTimeout(turn,document.hidden?10000:2000)}
$("login").addEventListener("submit",e=>{e.preventDefault();
sessionStorage.setItem("token",$("token").value);$("token").value="";
show().then(()=>{$("problem").textContent=""},x=>{$("problem").textContent=x.message})});
turn();
"""


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


PAGE_POLICY: Final = (
    f"default-src 'none'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Nothing but this script and this style runs, and they reach nothing but this address."""

PAGE: Final = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Headgate</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>{_STYLE}</style></head><body>
<h1>Headgate <span class="dim" id="version"></span></h1>
<p id="problem" role="alert"></p>
<form id="login" hidden><label>Token <input id="token" type="password" autocomplete="off"></label>
<button>Show</button></form>
<p id="sum"></p>
<h2>Nodes</h2><table id="nodes"></table>
<h2>Pools</h2><table id="pools"></table>
<h2>Plugins</h2><table id="plugins"></table>
<h2>Last refused statements</h2><table id="refused"></table>
<h2>Last events</h2><table id="events"></table>
<h2>Counted by cause</h2><table id="causes"></table>
<script>{_SCRIPT}</script></body></html>
"""
