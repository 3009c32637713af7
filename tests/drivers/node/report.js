// Run the steps of one program and print what came out, a JSON object a line.
'use strict';

const TYPES_QUERY =
  "SELECT true, 7::int2, 70000::int4, 7000000000::int8, 1.5::float8, 12345.678::numeric," +
  " 'text'::text, '\\x00ff'::bytea, date '2024-02-29', timestamp '2024-02-29 12:34:56.789'," +
  " timestamptz '2024-02-29 12:34:56+00', '6ecd8c99-4036-403d-bf84-cf8400f67836'::uuid," +
  " '{\"a\": [1, null]}'::jsonb, ARRAY[1, 2, NULL]::int4[], interval '1 day 02:03:04'," +
  " 'a'::char(3), inet '10.0.0.1', point(1, 2), int4range(1, 5)";
const UNICODE = 'Žluťoučký 🐘 日本語';
const NOTICE = "DO $$ BEGIN RAISE NOTICE 'hello from the server'; END $$";
const TERMINATE = 'SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)';
const STEP_TIMEOUT_MS = 30000;

class NotSupported extends Error {}

function show(...values) {
  return values.map((value) => (value === null ? 'null' : String(value))).join('|');
}

function say(object) {
  process.stdout.write(JSON.stringify(object) + '\n');
}

function limited(promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error('step timed out')), STEP_TIMEOUT_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function run(steps) {
  for (const [step, work] of Object.entries(steps)) {
    try {
      say({ step, value: await limited(work()) });
    } catch (error) {
      if (error instanceof NotSupported) say({ step, skip: error.message });
      else say({ step, value: `failed: ${error.code || ''} ${error.message}` });
    }
  }
  process.exit(0);
}

module.exports = { NOTICE, NotSupported, TERMINATE, TYPES_QUERY, UNICODE, run, show };
