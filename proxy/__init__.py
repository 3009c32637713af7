"""
Headgate: a PostgreSQL proxy that runs WebAssembly plugins on every statement.

The map of the program. Lower layers never import higher ones; the packages marked PURE
do no input or output, read no clock and make no randomness: those come in as arguments.

    errors      what can go wrong, by what the caller can do about it
    protocol/   PURE  bytes <-> frames <-> messages of the frontend/backend protocol
    auth/       PURE  SCRAM, md5, password: step(bytes) -> bytes, both sides
    sql/        facts about one statement, from PostgreSQL's own grammar, behind a cache
    session/    PURE  one client conversation, and one server connection's side of it
    routing/    PURE  a statement's facts and the nodes' state -> which node
    hooks/      the seam: what the twelve hooks are, in which order, what an answer does
    pool/       who gets which server connection (PURE: assignment); health of the nodes
    plugins/    the platform behind the seam: manifests, trust, wasmtime, lifecycle, host
    server/     the IO shell: sockets, TLS, backpressure, cancel, signals, worker processes
    admin/      the HTTP API and page, the console, /metrics, health
    settings/   the configuration file: model, loading, every problem with its place
    observe/    counters (plain integers), their exposition, logs
    demo/       an embedded PostgreSQL with a standby, and the scripted tour
    cli/        the command `headgate`

A statement's way, each arrow one function in one file:

    socket -> server.frontend.FrontendConnection.data_received
           -> session.session.Session.receive_from_frontend      cut into messages
           -> session.express.Express                            a plain one goes from here straight
                                                                 to the broker and the link; else
           -> session.exchange.Exchange                          one Query, or one Sync group
           -> session.ports.Gate.judge   (hooks.pipeline)        the plugins' verdict
           -> session.ports.Broker.acquire (pool.broker)         node and server connection
           -> session.link.BackendLink.send                      to the server
    socket -> server.backend.BackendConnection.data_received
           -> session.link.BackendLink.receive_from_backend      replies owed, in order; a plain one
                                                                 goes straight to the client; else
           -> session.relay.Relay.on_reply                       to the client, in runs
           -> session.conversation.Conversation.on_exchange_done release, Outcome -> post_query
"""

__version__ = "0.1.0"
