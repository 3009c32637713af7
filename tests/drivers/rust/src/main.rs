// The checklist in tokio-postgres, which prepares every statement and pipelines what is awaited
// together. It prints what came out, a JSON object a line.

use std::env;
use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{future, stream, SinkExt, StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Error, NoTls, SimpleQueryMessage};

const UNICODE: &str = "Žluťoučký 🐘 日本語";
const COUNT: &str = "SELECT count(*) FROM transactions";
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

type Outcome = Result<String, Error>;

struct Connected {
    client: Client,
    messages: mpsc::UnboundedReceiver<AsyncMessage>,
}

async fn connect() -> Result<Connected, Error> {
    let value = |name: &str| env::var(name).unwrap_or_default();
    let mut config = Config::new();
    config
        .host(value("PGHOST"))
        .port(value("PGPORT").parse().unwrap_or(5432))
        .user(value("PGUSER"))
        .password(value("PGPASSWORD"))
        .dbname(value("PGDATABASE"))
        .connect_timeout(Duration::from_secs(10));
    let (client, mut connection) = config.connect(NoTls).await?;
    let (sender, messages) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut arriving = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = arriving.next().await {
            let _ = sender.send(message);
        }
    });
    Ok(Connected { client, messages })
}

fn state<T>(result: &Result<T, Error>) -> String {
    match result {
        Ok(_) => "no error".into(),
        Err(error) => match error.code() {
            Some(code) => code.code().into(),
            None => error.to_string(),
        },
    }
}

async fn sqlstate(client: &Client, sql: &str) -> String {
    state(&client.execute(sql, &[]).await)
}

async fn int(client: &Client, sql: &str) -> Result<i64, Error> {
    let text = format!("SELECT x::int8 FROM ({sql}) AS one (x)");
    Ok(client.query_one(&text, &[]).await?.get(0))
}

async fn shown(client: &Client, sql: &str) -> Outcome {
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            return Ok(row.get(0).unwrap_or("null").into());
        }
    }
    Ok("no rows".into())
}

async fn user() -> Outcome {
    let c = connect().await?;
    shown(&c.client, "SELECT current_user").await
}

async fn simple() -> Outcome {
    let c = connect().await?;
    let row = c.client.query_one("SELECT 1, 'two'", &[]).await?;
    Ok(format!("{}|{}", row.get::<_, i32>(0), row.get::<_, &str>(1)))
}

async fn parameters() -> Outcome {
    let c = connect().await?;
    let sql = "SELECT $1::int + 1, $2::text || '!', NOT $3::bool";
    let row = c.client.query_one(sql, &[&41i32, &"text", &true]).await?;
    let (a, b, c): (i32, &str, bool) = (row.get(0), row.get(1), row.get(2));
    Ok(format!("{a}|{b}|{c}"))
}

async fn types() -> Outcome {
    let c = connect().await?;
    let sql = "SELECT true, 7::int2, 70000::int4, 7000000000::int8, 1.5::float8, 'text'::text,
        '\\x00ff'::bytea, ARRAY[1, 2, NULL]::int4[], 'a'::char(3)";
    let row = c.client.query_one(sql, &[]).await?;
    Ok(format!(
        "{} {} {} {} {} {} {:?} {:?} {:?}",
        row.get::<_, bool>(0),
        row.get::<_, i16>(1),
        row.get::<_, i32>(2),
        row.get::<_, i64>(3),
        row.get::<_, f64>(4),
        row.get::<_, &str>(5),
        row.get::<_, &[u8]>(6),
        row.get::<_, Vec<Option<i32>>>(7),
        row.get::<_, &str>(8),
    ))
}

async fn nulls() -> Outcome {
    let c = connect().await?;
    let sql = "SELECT NULL::int, $1::text, $2::int IS NULL";
    let row = c.client.query_one(sql, &[&None::<&str>, &None::<i32>]).await?;
    let (a, b, c): (Option<i32>, Option<&str>, bool) = (row.get(0), row.get(1), row.get(2));
    let null = || "null".to_string();
    Ok(format!("{}|{}|{c}", a.map_or_else(null, |v| v.to_string()), b.map_or_else(null, Into::into)))
}

async fn prepared() -> Outcome {
    let mut total = 0;
    let mut connections = Vec::new();
    for _ in 0..10 {
        let c = connect().await?;
        let mut statements = Vec::new();
        for n in 0..6 {
            let sql = format!("SELECT $1::int + {n}");
            statements.push(c.client.prepare_typed(&sql, &[Type::INT4]).await?);
        }
        connections.push((c, statements));
    }
    for _ in 0..3 {
        for (number, (c, statements)) in connections.iter().enumerate() {
            let number = number as i32;
            let parameter: &[&(dyn ToSql + Sync)] = &[&number];
            let asked = statements.iter().map(|s| c.client.query_one(s, parameter));
            for row in future::try_join_all(asked).await? {
                total += row.get::<_, i32>(0);
            }
        }
    }
    Ok(total.to_string())
}

async fn transaction() -> Outcome {
    let mut c = connect().await?;
    let insert = "INSERT INTO transactions VALUES ($1)";
    c.client.batch_execute("CREATE TABLE transactions (n int)").await?;
    let mut outer = c.client.transaction().await?;
    outer.execute(insert, &[&1i32]).await?;
    let inner = outer.savepoint("inside").await?;
    inner.execute(insert, &[&2i32]).await?;
    inner.rollback().await?;
    outer.execute(insert, &[&3i32]).await?;
    outer.commit().await?;
    let first = int(&c.client, COUNT).await?;
    let undone = c.client.transaction().await?;
    undone.execute(insert, &[&4i32]).await?;
    undone.rollback().await?;
    Ok(format!("{first}|{}", int(&c.client, COUNT).await?))
}

async fn errors() -> Outcome {
    let c = connect().await?;
    let made = "CREATE TABLE unique_numbers (n int PRIMARY KEY); INSERT INTO unique_numbers VALUES (1)";
    c.client.batch_execute(made).await?;
    let mut states = Vec::new();
    for sql in [
        "SELECT 1 / 0",
        "SELEC 1",
        "SELECT * FROM no_such_table",
        "INSERT INTO unique_numbers VALUES (1)",
    ] {
        states.push(sqlstate(&c.client, sql).await);
    }
    c.client.batch_execute("BEGIN").await?;
    sqlstate(&c.client, "SELECT 1 / 0").await;
    states.push(sqlstate(&c.client, "SELECT 1").await);
    c.client.batch_execute("ROLLBACK").await?;
    Ok(states.join(" "))
}

async fn copy_in() -> Outcome {
    let c = connect().await?;
    c.client.batch_execute("CREATE TABLE copied (n int, t text)").await?;
    let sink = c.client.copy_in::<_, Bytes>("COPY copied FROM STDIN").await?;
    let mut sink = pin!(sink);
    for n in 1..=1000 {
        sink.send(Bytes::from(format!("{n}\ttext\n"))).await?;
    }
    sink.finish().await?;
    let count = int(&c.client, "SELECT count(*) FROM copied").await?;
    Ok(format!("{count}|{}", int(&c.client, "SELECT sum(n) FROM copied").await?))
}

async fn copy_out() -> Outcome {
    let c = connect().await?;
    let sql = "COPY (SELECT generate_series(1, 1000)) TO STDOUT";
    let pieces: Vec<Bytes> = c.client.copy_out(sql).await?.try_collect().await?;
    let data = pieces.concat();
    let lines = data.iter().filter(|byte| **byte == b'\n').count();
    Ok(format!("{lines}|{}", data.len()))
}

async fn copy_error() -> Outcome {
    let c = connect().await?;
    c.client.batch_execute("CREATE TABLE copied_badly (n int)").await?;
    let sink = c.client.copy_in::<_, Bytes>("COPY copied_badly FROM STDIN").await?;
    let mut sink = pin!(sink);
    for line in ["1\n", "not a number\n", "3\n"] {
        // The server's answer may be here before the last line.
        let _ = sink.send(Bytes::from(line)).await;
    }
    let code = state(&sink.finish().await);
    Ok(format!("{code}|{}", int(&c.client, "SELECT 1").await?))
}

async fn notify() -> Outcome {
    let mut c = connect().await?;
    let sender = connect().await?;
    c.client.batch_execute("LISTEN checklist_channel").await?;
    for sql in ["BEGIN", "NOTIFY checklist_channel, 'payload'", "COMMIT"] {
        sender.client.batch_execute(sql).await?;
    }
    while let Some(message) = c.messages.recv().await {
        if let AsyncMessage::Notification(heard) = message {
            return Ok(format!("{}|{}", heard.channel(), heard.payload()));
        }
    }
    Ok("nothing came".into())
}

async fn cancel() -> Outcome {
    let c = connect().await?;
    let token = c.client.cancel_token();
    let (result, _) = future::join(c.client.execute("SELECT pg_sleep(20)", &[]), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await
    })
    .await;
    let code = state(&result);
    Ok(format!("{code}|{}", int(&c.client, "SELECT 1").await?))
}

async fn cursor() -> Outcome {
    let mut c = connect().await?;
    let inside = c.client.transaction().await?;
    let portal = inside.bind("SELECT generate_series(1, $1::int)", &[&100i32]).await?;
    let (mut count, mut total) = (0, 0);
    loop {
        let rows = inside.query_portal(&portal, 7).await?;
        if rows.is_empty() {
            break;
        }
        count += rows.len();
        total += rows.iter().map(|row| row.get::<_, i32>(0)).sum::<i32>();
    }
    inside.commit().await?;
    Ok(format!("{count}|{total}"))
}

async fn pipeline() -> Outcome {
    let c = connect().await?;
    let good = c.client.prepare("SELECT $1::int").await?;
    let bad = c.client.prepare("SELECT 1 / $1::int").await?;
    let (one, two, three, zero, four) = (1i32, 2i32, 3i32, 0i32, 4i32);
    let first: &[&(dyn ToSql + Sync)] = &[&one];
    let second: &[&(dyn ToSql + Sync)] = &[&two];
    let third: &[&(dyn ToSql + Sync)] = &[&three];
    let failing: &[&(dyn ToSql + Sync)] = &[&zero];
    let last: &[&(dyn ToSql + Sync)] = &[&four];
    let (a, b, c, failed, d) = future::join5(
        c.client.query_one(&good, first),
        c.client.query_one(&good, second),
        c.client.query_one(&good, third),
        c.client.query_one(&bad, failing),
        c.client.query_one(&good, last),
    )
    .await;
    let code = state(&failed);
    let numbers: Vec<i32> = [a?, b?, c?, d?].iter().map(|row| row.get(0)).collect();
    Ok(format!("{},{},{}|{code}|{}", numbers[0], numbers[1], numbers[2], numbers[3]))
}

async fn large_row() -> Outcome {
    let c = connect().await?;
    let row = c.client.query_one("SELECT repeat('x', 8000000)", &[]).await?;
    Ok(row.get::<_, &str>(0).len().to_string())
}

async fn large_result() -> Outcome {
    let c = connect().await?;
    let rows = c.client.query("SELECT generate_series(1, 50000)", &[]).await?;
    Ok(rows.iter().map(|row| i64::from(row.get::<_, i32>(0))).sum::<i64>().to_string())
}

async fn notice() -> Outcome {
    let mut c = connect().await?;
    c.client.batch_execute("DO $$ BEGIN RAISE NOTICE 'hello from the server'; END $$").await?;
    while let Some(message) = c.messages.recv().await {
        if let AsyncMessage::Notice(heard) = message {
            return Ok(heard.message().into());
        }
    }
    Ok("nothing came".into())
}

async fn unicode() -> Outcome {
    let c = connect().await?;
    let sql = "SELECT $1::text, char_length($1::text)";
    let row = c.client.query_one(sql, &[&UNICODE]).await?;
    Ok(format!("{}|{}", row.get::<_, &str>(0), row.get::<_, i32>(1)))
}

async fn settings() -> Outcome {
    let mut c = connect().await?;
    let set = "SET statement_timeout = '54321ms'; SET application_name = 'checklist'";
    c.client.batch_execute(set).await?;
    let inside = c.client.transaction().await?;
    let timeout = inside.query_one("SHOW statement_timeout", &[]).await?;
    inside.commit().await?;
    let timeout: &str = timeout.get(0);
    let name = shown(&c.client, "SHOW application_name").await?;
    c.client.batch_execute("RESET statement_timeout").await?;
    Ok(format!("{timeout}|{name}|{}", shown(&c.client, "SHOW statement_timeout").await?))
}

async fn session() -> Outcome {
    let c = connect().await?;
    c.client.batch_execute("CREATE TEMPORARY TABLE mine (n int)").await?;
    c.client.execute("INSERT INTO mine VALUES (1)", &[]).await?;
    c.client.execute("SELECT pg_advisory_lock(4711)", &[]).await?;
    let count = int(&c.client, "SELECT count(*) FROM mine").await?;
    let row = c.client.query_one("SELECT pg_advisory_unlock(4711)", &[]).await?;
    c.client.batch_execute("DROP TABLE mine").await?;
    Ok(format!("{count}|{}", row.get::<_, bool>(0)))
}

async fn multi() -> Outcome {
    let c = connect().await?;
    let mut values = Vec::new();
    for message in c.client.simple_query("SELECT 1; SELECT 2").await? {
        if let SimpleQueryMessage::Row(row) = message {
            values.push(row.get(0).unwrap_or("null").to_string());
        }
    }
    Ok(values.join("|"))
}

async fn reconnect() -> Outcome {
    let again = connect().await?;
    let doomed = connect().await?;
    let sql = "SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(5)";
    let code = state(&doomed.client.execute(sql, &[]).await);
    Ok(format!("{code}|{}", int(&again.client, "SELECT 1").await?))
}

fn quoted(text: &str) -> String {
    let mut json = String::from("\"");
    for letter in text.chars() {
        match letter {
            '"' | '\\' => json.extend(['\\', letter]),
            control if control < ' ' => json.push_str(&format!("\\u{:04x}", control as u32)),
            other => json.push(other),
        }
    }
    json + "\""
}

async fn perform(name: &str, step: impl Future<Output = Outcome>) {
    let value = match tokio::time::timeout(STEP_TIMEOUT, step).await {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => format!("failed: {error}"),
        Err(_) => "failed: step timed out".into(),
    };
    println!("{{\"step\": {}, \"value\": {}}}", quoted(name), quoted(&value));
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    perform("connect", user()).await;
    perform("simple", simple()).await;
    perform("parameters", parameters()).await;
    perform("types", types()).await;
    perform("nulls", nulls()).await;
    perform("prepared", prepared()).await;
    perform("transaction", transaction()).await;
    perform("errors", errors()).await;
    perform("copy_in", copy_in()).await;
    perform("copy_out", copy_out()).await;
    perform("copy_error", copy_error()).await;
    perform("notify", notify()).await;
    perform("cancel", cancel()).await;
    perform("cursor", cursor()).await;
    perform("pipeline", pipeline()).await;
    perform("large_row", large_row()).await;
    perform("large_result", large_result()).await;
    perform("notice", notice()).await;
    perform("unicode", unicode()).await;
    perform("settings", settings()).await;
    perform("session", session()).await;
    perform("multi", multi()).await;
    perform("reconnect", reconnect()).await;
}
