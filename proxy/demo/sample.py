"""
The demo's data: a small shop with customers, products, orders and a report over them.

Plain SQL for one server; knows nothing of the proxy or its plugins, except that the example
plugin `pin-reports` looks for tables whose name begins with "report".
"""

from typing import Final

from proxy.demo.cluster import EmbeddedPostgres

DATABASE: Final = "shop"
USER: Final = "demo"

_SCHEMA: Final = """
CREATE TABLE customers (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    region text NOT NULL
);
CREATE TABLE products (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    price numeric(8, 2) NOT NULL
);
CREATE TABLE orders (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id int NOT NULL REFERENCES customers,
    product_id int NOT NULL REFERENCES products,
    quantity int NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX ON orders (customer_id);

INSERT INTO customers (name, region)
SELECT 'customer ' || n, (ARRAY['north', 'east', 'south', 'west'])[1 + n % 4]
FROM generate_series(1, 200) AS n;

INSERT INTO products (name, price)
SELECT 'product ' || n, round((5 + n * 37 % 400)::numeric / 4, 2)
FROM generate_series(1, 50) AS n;

INSERT INTO orders (customer_id, product_id, quantity, placed_at)
SELECT 1 + n * 7 % 200, 1 + n * 13 % 50, 1 + n % 5, now() - n * interval '11 minutes'
FROM generate_series(1, 5000) AS n;

CREATE TABLE report_by_region AS
SELECT c.region, count(*) AS orders, sum(o.quantity * p.price) AS revenue
FROM orders o JOIN customers c ON c.id = o.customer_id JOIN products p ON p.id = o.product_id
GROUP BY c.region;
"""


def load(primary: EmbeddedPostgres, other_users: tuple[str, ...] = ()) -> None:
    """Make the database, its owner and the data; other users may do what the owner may."""
    primary.execute(f"CREATE ROLE {USER} LOGIN")
    primary.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}")
    for user in other_users:
        quoted = '"' + user.replace('"', '""') + '"'
        primary.execute(f"CREATE ROLE {quoted} LOGIN IN ROLE {USER}")
    # The owner's tables, so that a client of the demo may do with them what it likes.
    primary.execute(f"SET ROLE {USER};" + _SCHEMA, dbname=DATABASE)
    primary.execute("ANALYZE", dbname=DATABASE)
