// The checklist in postgres.js, which prepares every statement and pipelines what it can.
'use strict';

const { Readable } = require('node:stream');
const { pipeline } = require('node:stream/promises');
const postgres = require('postgres');
const { NOTICE, NotSupported, TERMINATE, TYPES_QUERY, UNICODE, run, show } = require('./report.js');

const OPTIONS = {
  host: process.env.PGHOST,
  port: Number(process.env.PGPORT),
  user: process.env.PGUSER,
  password: process.env.PGPASSWORD,
  database: process.env.PGDATABASE,
  connect_timeout: 10,
  onnotice: () => {},
};

async function connected(work, options) {
  const sql = postgres({ ...OPTIONS, max: 1, ...options });
  try {
    return await work(sql);
  } finally {
    await sql.end({ timeout: 2 });
  }
}

const values = (row) => Object.values(row);

const sqlstate = (query) =>
  query.then(
    () => 'no error',
    (error) => error.code,
  );

class Undo extends Error {}

const steps = {
  connect: () => connected(async (sql) => show(...values((await sql`SELECT current_user`)[0]))),
  simple: () => connected(async (sql) => show(...values((await sql`SELECT 1, 'two' AS two`)[0]))),
  parameters: () =>
    connected(async (sql) => {
      const rows = await sql`
        SELECT ${41}::int + 1 AS a, ${'text'}::text || '!' AS b, NOT ${true}::bool AS c`;
      return show(...values(rows[0]));
    }),
  types: () =>
    connected(async (sql) => JSON.stringify(await sql.unsafe(TYPES_QUERY, []).values())),
  nulls: () =>
    connected(async (sql) => {
      const rows = await sql`SELECT NULL::int AS a, ${null}::text AS b, ${null}::int IS NULL AS c`;
      return show(...values(rows[0]));
    }),
  prepared: () =>
    connected(
      async (sql) => {
        let total = 0;
        for (let round = 0; round < 3; round++) {
          const answers = [];
          for (let number = 0; number < 10; number++)
            for (let statement = 0; statement < 6; statement++)
              answers.push(sql.unsafe(`SELECT $1::int + ${statement} AS n`, [number]));
          for (const rows of await Promise.all(answers)) total += rows[0].n;
        }
        return show(total);
      },
      { max: 10 },
    ),
  transaction: () =>
    connected(async (sql) => {
      await sql`CREATE TABLE transactions (n int)`;
      await sql.begin(async (inside) => {
        await inside`INSERT INTO transactions VALUES (${1})`;
        await inside
          .savepoint(async (deeper) => {
            await deeper`INSERT INTO transactions VALUES (${2})`;
            throw new Undo();
          })
          .catch((error) => {
            if (!(error instanceof Undo)) throw error;
          });
        await inside`INSERT INTO transactions VALUES (${3})`;
      });
      const first = (await sql`SELECT count(*) AS n FROM transactions`)[0].n;
      await sql
        .begin(async (inside) => {
          await inside`INSERT INTO transactions VALUES (${4})`;
          throw new Undo();
        })
        .catch((error) => {
          if (!(error instanceof Undo)) throw error;
        });
      return show(first, (await sql`SELECT count(*) AS n FROM transactions`)[0].n);
    }),
  errors: () =>
    connected(async (sql) => {
      await sql`CREATE TABLE unique_numbers (n int PRIMARY KEY)`;
      await sql`INSERT INTO unique_numbers VALUES (1)`;
      const states = [
        await sqlstate(sql`SELECT 1 / ${0}::int`),
        await sqlstate(sql`SELEC 1`),
        await sqlstate(sql`SELECT * FROM no_such_table`),
        await sqlstate(sql`INSERT INTO unique_numbers VALUES (${1})`),
      ];
      await sql
        .begin(async (inside) => {
          await sqlstate(inside`SELECT 1 / 0`);
          states.push(await sqlstate(inside`SELECT 1`));
          throw new Undo();
        })
        .catch((error) => {
          if (!(error instanceof Undo)) throw error;
        });
      return states.join(' ');
    }),
  copy_in: () =>
    connected(async (sql) => {
      await sql`CREATE TABLE copied (n int, t text)`;
      const lines = [...Array(1000).keys()].map((n) => `${n + 1}\ttext\n`);
      await pipeline(Readable.from(lines), await sql`COPY copied FROM STDIN`.writable());
      return show(...values((await sql`SELECT count(*), sum(n) FROM copied`)[0]));
    }),
  copy_out: () =>
    connected(async (sql) => {
      const chunks = [];
      const stream = await sql`COPY (SELECT generate_series(1, 1000)) TO STDOUT`.readable();
      for await (const chunk of stream) chunks.push(chunk);
      const data = Buffer.concat(chunks).toString();
      return show(data.split('\n').length - 1, data.length);
    }),
  copy_error: async () => {
    throw new NotSupported('its stream never learns that the server has refused the data');
  },
  notify: () =>
    connected(async (sql) => {
      let heard;
      const payload = new Promise((resolve) => (heard = resolve));
      await sql.listen('checklist_channel', heard);
      await sql.notify('checklist_channel', 'payload');
      return show('checklist_channel', await payload);
    }),
  cancel: () =>
    connected(async (sql) => {
      const query = sql`SELECT pg_sleep(20)`;
      const state = sqlstate(query);
      await new Promise((resolve) => setTimeout(resolve, 300));
      query.cancel();
      return show(await state, (await sql`SELECT 1 AS n`)[0].n);
    }),
  cursor: () =>
    connected(async (sql) => {
      let count = 0;
      let total = 0;
      for await (const rows of sql`SELECT generate_series(1, ${100}::int) AS n`.cursor(7)) {
        count += rows.length;
        for (const row of rows) total += row.n;
      }
      return show(count, total);
    }),
  pipeline: () =>
    connected(async (sql) => {
      const answers = await Promise.all([
        ...[1, 2, 3].map(async (n) => (await sql`SELECT ${n}::int AS n`)[0].n),
        sqlstate(sql`SELECT 1 / ${0}::int`),
        sql`SELECT 4 AS n`,
      ]);
      return show(answers.slice(0, 3).join(','), answers[3], answers[4][0].n);
    }),
  large_row: () =>
    connected(async (sql) => show((await sql`SELECT repeat('x', 8000000) AS t`)[0].t.length)),
  large_result: () =>
    connected(async (sql) => {
      const rows = await sql`SELECT generate_series(1, 50000) AS n`;
      return show(rows.reduce((total, row) => total + row.n, 0));
    }),
  notice: async () => {
    const heard = [];
    await connected((sql) => sql.unsafe(NOTICE), { onnotice: (n) => heard.push(n.message) });
    return show(...heard);
  },
  unicode: () =>
    connected(async (sql) => {
      const rows = await sql`SELECT ${UNICODE}::text AS t, char_length(${UNICODE}::text) AS n`;
      return show(...values(rows[0]));
    }),
  settings: () =>
    connected(async (sql) => {
      await sql`SET statement_timeout = '54321ms'`;
      await sql`SET application_name = 'checklist'`;
      const inside = await sql.begin((inside) => inside`SHOW statement_timeout`);
      const name = (await sql`SHOW application_name`)[0].application_name;
      await sql`RESET statement_timeout`;
      const after = (await sql`SHOW statement_timeout`)[0].statement_timeout;
      return show(inside[0].statement_timeout, name, after);
    }),
  session: () =>
    connected(async (sql) => {
      await sql`CREATE TEMPORARY TABLE mine (n int)`;
      await sql`INSERT INTO mine VALUES (1)`;
      await sql`SELECT pg_advisory_lock(4711)`;
      const count = (await sql`SELECT count(*) AS n FROM mine`)[0].n;
      const unlocked = (await sql`SELECT pg_advisory_unlock(4711) AS b`)[0].b;
      await sql`DROP TABLE mine`;
      return show(count, unlocked);
    }),
  multi: () =>
    connected(async (sql) => {
      const answers = await sql.unsafe('SELECT 1 AS n; SELECT 2 AS n');
      return show(...answers.map((rows) => rows[0].n));
    }),
  reconnect: () =>
    connected(async (again) => {
      const state = await connected((sql) => sqlstate(sql.unsafe(TERMINATE)));
      return show(state, (await again`SELECT 1 AS n`)[0].n);
    }),
};

run(steps);
