// The checklist in node-postgres, with its cursor and COPY companions.
'use strict';

const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const pg = require('pg');
const Cursor = require('pg-cursor');
const copy = require('pg-copy-streams');
const { NOTICE, TERMINATE, TYPES_QUERY, UNICODE, run, show } = require('./report.js');

async function connected(work) {
  const client = new pg.Client({ connectionTimeoutMillis: 10000 });
  client.on('error', () => {});
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}

const one = async (client, sql, values) =>
  (await client.query({ text: sql, values, rowMode: 'array' })).rows[0];

const sqlstate = (client, sql, values) =>
  client.query(sql, values).then(
    () => 'no error',
    (error) => error.code,
  );

const steps = {
  connect: () => connected(async (c) => show(...(await one(c, 'SELECT current_user')))),
  simple: () => connected(async (c) => show(...(await one(c, "SELECT 1, 'two'")))),
  parameters: () =>
    connected(async (c) => {
      const sql = "SELECT $1::int + 1, $2::text || '!', NOT $3::bool";
      return show(...(await one(c, sql, [41, 'text', true])));
    }),
  types: () => connected(async (c) => JSON.stringify(await one(c, TYPES_QUERY))),
  nulls: () =>
    connected(async (c) => {
      const sql = 'SELECT NULL::int, $1::text, $2::int IS NULL';
      return show(...(await one(c, sql, [null, null])));
    }),
  prepared: async () => {
    const pool = new pg.Pool({ max: 10 });
    const clients = await Promise.all([...Array(10).keys()].map(() => pool.connect()));
    let total = 0;
    for (let round = 0; round < 3; round++) {
      const answers = [];
      clients.forEach((client, number) => {
        for (let statement = 0; statement < 6; statement++) {
          const text = `SELECT $1::int + ${statement} AS n`;
          answers.push(client.query({ name: `s${statement}`, text, values: [number] }));
        }
      });
      for (const answer of await Promise.all(answers)) total += answer.rows[0].n;
    }
    clients.forEach((client) => client.release());
    await pool.end();
    return show(total);
  },
  transaction: () =>
    connected(async (c) => {
      const count = 'SELECT count(*) FROM transactions';
      for (const sql of [
        'CREATE TABLE transactions (n int)',
        'BEGIN',
        'INSERT INTO transactions VALUES (1)',
        'SAVEPOINT inside',
        'INSERT INTO transactions VALUES (2)',
        'ROLLBACK TO SAVEPOINT inside',
        'INSERT INTO transactions VALUES (3)',
        'COMMIT',
      ])
        await c.query(sql);
      const first = (await one(c, count))[0];
      for (const sql of ['BEGIN', 'INSERT INTO transactions VALUES (4)', 'ROLLBACK'])
        await c.query(sql);
      return show(first, ...(await one(c, count)));
    }),
  errors: () =>
    connected(async (c) => {
      await c.query('CREATE TABLE unique_numbers (n int PRIMARY KEY)');
      await c.query('INSERT INTO unique_numbers VALUES (1)');
      const states = [
        await sqlstate(c, 'SELECT 1 / $1::int', [0]),
        await sqlstate(c, 'SELEC 1'),
        await sqlstate(c, 'SELECT * FROM no_such_table WHERE n = $1', [1]),
        await sqlstate(c, 'INSERT INTO unique_numbers VALUES ($1)', [1]),
      ];
      await c.query('BEGIN');
      await sqlstate(c, 'SELECT 1 / 0');
      states.push(await sqlstate(c, 'SELECT 1'));
      await c.query('ROLLBACK');
      return states.join(' ');
    }),
  copy_in: () =>
    connected(async (c) => {
      await c.query('CREATE TABLE copied (n int, t text)');
      const lines = [...Array(1000).keys()].map((n) => `${n + 1}\ttext\n`);
      await pipeline(Readable.from(lines), c.query(copy.from('COPY copied FROM STDIN')));
      return show(...(await one(c, 'SELECT count(*), sum(n) FROM copied')));
    }),
  copy_out: () =>
    connected(async (c) => {
      const sql = 'COPY (SELECT generate_series(1, 1000)) TO STDOUT';
      const chunks = [];
      for await (const chunk of c.query(copy.to(sql))) chunks.push(chunk);
      const data = Buffer.concat(chunks).toString();
      return show(data.split('\n').length - 1, data.length);
    }),
  copy_error: () =>
    connected(async (c) => {
      await c.query('CREATE TABLE copied_badly (n int)');
      const lines = Readable.from(['1\n', 'not a number\n', '3\n']);
      let state = 'no error';
      try {
        await pipeline(lines, c.query(copy.from('COPY copied_badly FROM STDIN')));
      } catch (error) {
        state = error.code;
      }
      return show(state, ...(await one(c, 'SELECT 1')));
    }),
  notify: () =>
    connected((listener) =>
      connected(async (sender) => {
        const heard = new Promise((resolve) => listener.once('notification', resolve));
        await listener.query('LISTEN checklist_channel');
        await sender.query('BEGIN');
        await sender.query("NOTIFY checklist_channel, 'payload'");
        await sender.query('COMMIT');
        const notification = await heard;
        return show(notification.channel, notification.payload);
      }),
    ),
  cancel: () =>
    connected(async (c) => {
      const query = new pg.Query('SELECT pg_sleep(20)');
      const state = new Promise((resolve) => {
        query.on('error', (error) => resolve(error.code));
        query.on('end', () => resolve('no error'));
      });
      c.query(query);
      await new Promise((resolve) => setTimeout(resolve, 300));
      new pg.Client().cancel(c, query);
      return show(await state, ...(await one(c, 'SELECT 1')));
    }),
  cursor: () =>
    connected(async (c) => {
      let count = 0;
      let total = 0;
      await c.query('BEGIN');
      const cursor = c.query(new Cursor('SELECT generate_series(1, $1::int) AS n', [100]));
      for (let rows = await cursor.read(7); rows.length > 0; rows = await cursor.read(7)) {
        count += rows.length;
        for (const row of rows) total += row.n;
      }
      await cursor.close();
      await c.query('COMMIT');
      return show(count, total);
    }),
  pipeline: () =>
    connected(async (c) => {
      // Queued by the driver, in order; the error is its own statement's only.
      const answers = await Promise.all([
        ...[1, 2, 3].map((n) => one(c, 'SELECT $1::int', [n])),
        sqlstate(c, 'SELECT 1 / $1::int', [0]),
        one(c, 'SELECT 4'),
      ]);
      return show(answers.slice(0, 3).join(','), answers[3], answers[4][0]);
    }),
  large_row: () =>
    connected(async (c) => show((await one(c, "SELECT repeat('x', 8000000)"))[0].length)),
  large_result: () =>
    connected(async (c) => {
      const { rows } = await c.query('SELECT generate_series(1, 50000) AS n');
      return show(rows.reduce((total, row) => total + row.n, 0));
    }),
  notice: () =>
    connected(async (c) => {
      const heard = [];
      c.on('notice', (notice) => heard.push(notice.message));
      await c.query(NOTICE);
      return show(...heard);
    }),
  unicode: () =>
    connected(async (c) =>
      show(...(await one(c, 'SELECT $1::text, char_length($1::text)', [UNICODE]))),
    ),
  settings: () =>
    connected(async (c) => {
      await c.query("SET statement_timeout = '54321ms'");
      await c.query("SET application_name = 'checklist'");
      await c.query('BEGIN');
      const timeout = (await one(c, 'SHOW statement_timeout'))[0];
      await c.query('COMMIT');
      const name = (await one(c, 'SHOW application_name'))[0];
      await c.query('RESET statement_timeout');
      return show(timeout, name, ...(await one(c, 'SHOW statement_timeout')));
    }),
  session: () =>
    connected(async (c) => {
      await c.query('CREATE TEMPORARY TABLE mine (n int)');
      await c.query('INSERT INTO mine VALUES (1)');
      await c.query('SELECT pg_advisory_lock(4711)');
      const count = (await one(c, 'SELECT count(*) FROM mine'))[0];
      const unlocked = (await one(c, 'SELECT pg_advisory_unlock(4711)'))[0];
      await c.query('DROP TABLE mine');
      return show(count, unlocked);
    }),
  multi: () =>
    connected(async (c) => {
      const answers = await c.query('SELECT 1 AS n; SELECT 2 AS n');
      return show(...answers.map((answer) => answer.rows[0].n));
    }),
  reconnect: () =>
    connected(async (again) => {
      const state = await connected((doomed) => sqlstate(doomed, TERMINATE));
      return show(state, ...(await one(again, 'SELECT 1')));
    }),
};

run(steps);
