"""
What each statement of PostgreSQL's grammar is called, and which parts of the grammar only read.

Tables, nothing else. Names are those of the parse tree. Whatever is missing here counts as the
worse case: an unlisted statement is of kind unknown, an unlisted part makes a statement a write.
"""

from typing import Final

_DDL: Final = """
AlterCollationStmt AlterDatabaseRefreshCollStmt AlterDatabaseSetStmt AlterDatabaseStmt
AlterDefaultPrivilegesStmt AlterDomainStmt AlterEnumStmt AlterEventTrigStmt
AlterExtensionContentsStmt AlterExtensionStmt AlterFdwStmt AlterForeignServerStmt
AlterFunctionStmt AlterObjectDependsStmt AlterObjectSchemaStmt AlterOpFamilyStmt
AlterOperatorStmt AlterOwnerStmt AlterPolicyStmt AlterPublicationStmt AlterRoleSetStmt
AlterRoleStmt AlterSeqStmt AlterStatsStmt AlterSubscriptionStmt AlterSystemStmt
AlterTSConfigurationStmt AlterTSDictionaryStmt AlterTableMoveAllStmt AlterTableSpaceOptionsStmt
AlterTableStmt AlterTypeStmt AlterUserMappingStmt CommentStmt CompositeTypeStmt CreateAmStmt
CreateCastStmt CreateConversionStmt CreateDomainStmt CreateEnumStmt CreateEventTrigStmt
CreateExtensionStmt CreateFdwStmt CreateForeignServerStmt CreateForeignTableStmt
CreateFunctionStmt CreateOpClassStmt CreateOpFamilyStmt CreatePLangStmt CreatePolicyStmt
CreatePublicationStmt CreateRangeStmt CreateRoleStmt CreateSchemaStmt CreateSeqStmt
CreateStatsStmt CreateStmt CreateSubscriptionStmt CreateTableAsStmt CreateTableSpaceStmt
CreateTransformStmt CreateTrigStmt CreateUserMappingStmt CreatedbStmt DefineStmt DropOwnedStmt
DropRoleStmt DropStmt DropSubscriptionStmt DropTableSpaceStmt DropUserMappingStmt DropdbStmt
GrantRoleStmt GrantStmt ImportForeignSchemaStmt IndexStmt ReassignOwnedStmt RefreshMatViewStmt
RenameStmt ReplicaIdentityStmt RuleStmt SecLabelStmt TruncateStmt ViewStmt
"""

_UTILITY: Final = """
CheckPointStmt ClosePortalStmt ClusterStmt DeallocateStmt DiscardStmt LoadStmt ReindexStmt
VacuumStmt VariableShowStmt
"""

_OTHERS: Final = {
    "SelectStmt": "select",
    "InsertStmt": "insert",
    "UpdateStmt": "update",
    "DeleteStmt": "delete",
    "MergeStmt": "merge",
    "CopyStmt": "copy",
    "VariableSetStmt": "set",
    "ConstraintsSetStmt": "set",
    "TransactionStmt": "transaction",
    "CallStmt": "call",
    "DoStmt": "do",
    "ExplainStmt": "explain",
    "PrepareStmt": "prepare",
    "ExecuteStmt": "execute",
    "DeclareCursorStmt": "declare",
    "FetchStmt": "fetch",
    "ListenStmt": "listen",
    "UnlistenStmt": "listen",
    "NotifyStmt": "notify",
    "LockStmt": "lock",
}

STATEMENT_KINDS: Final[dict[str, str]] = {
    **dict.fromkeys(_DDL.split(), "ddl"),
    **dict.fromkeys(_UTILITY.split(), "utility"),
    **_OTHERS,
}

# Statements that change rows, the one that gives a mixed statement its kind first.
WRITING_KINDS: Final[tuple[str, ...]] = ("delete", "update", "merge", "insert")

WRITING_STATEMENTS: Final[dict[str, str]] = {
    "DeleteStmt": "delete",
    "UpdateStmt": "update",
    "MergeStmt": "merge",
    "InsertStmt": "insert",
}

# What a MERGE's WHEN clause does.
MERGE_COMMANDS: Final[dict[str, str]] = {
    "CMD_INSERT": "insert",
    "CMD_UPDATE": "update",
    "CMD_DELETE": "delete",
}

# These only store the queries and expressions they hold; nothing of it runs now.
STORES_ONLY: Final[frozenset[str]] = frozenset(
    ("CreateFunctionStmt", "CreateTrigStmt", "RuleStmt", "ViewStmt", "CreatePolicyStmt")
)

# These always may leave something in the session, whatever they hold. EXECUTE runs a statement
# that was looked at elsewhere; an extension's script is a text of its own.
LEAVES_STATE: Final[frozenset[str]] = frozenset(
    (
        "AlterExtensionStmt",
        "CallStmt",
        "CreateExtensionStmt",
        "DeallocateStmt",
        "DiscardStmt",
        "DoStmt",
        "ExecuteStmt",
        "ListenStmt",
        "LoadStmt",
        "PrepareStmt",
        "UnlistenStmt",
    )
)

# What DROP, COMMENT and SECURITY LABEL call by a list of names: relations themselves, and things
# that belong to a relation, whose own name comes last.
RELATION_OBJECTS: Final[frozenset[str]] = frozenset(
    (
        "OBJECT_FOREIGN_TABLE",
        "OBJECT_INDEX",
        "OBJECT_MATVIEW",
        "OBJECT_SEQUENCE",
        "OBJECT_TABLE",
        "OBJECT_VIEW",
    )
)
OBJECTS_OF_RELATION: Final[frozenset[str]] = frozenset(
    (
        "OBJECT_COLUMN",
        "OBJECT_POLICY",
        "OBJECT_RULE",
        "OBJECT_TABCONSTRAINT",
        "OBJECT_TRIGGER",
    )
)

# SHOW of these asks about the node, and a client that asks means the primary.
SHOW_OF_NODE: Final[frozenset[str]] = frozenset(("in_hot_standby", "transaction_read_only", "all"))

_READ_NODES: Final = """
A_ArrayExpr A_Const A_Expr A_Indices A_Indirection A_Star Alias BitString BoolExpr Boolean
BooleanTest CTECycleClause CTESearchClause CaseExpr CaseWhen CoalesceExpr CollateClause ColumnDef
ColumnRef CommonTableExpr CopyStmt DefElem ExplainStmt Float FuncCall GroupingFunc GroupingSet
Integer JoinExpr JsonAggConstructor JsonArgument JsonArrayAgg JsonArrayConstructor
JsonArrayQueryConstructor JsonBehavior JsonFormat JsonFuncExpr JsonIsPredicate JsonKeyValue
JsonObjectAgg JsonObjectConstructor JsonOutput JsonParseExpr JsonReturning JsonScalarExpr
JsonSerializeExpr JsonTable JsonTableColumn JsonTablePathSpec JsonValueExpr List MinMaxExpr
NamedArgExpr NullTest ParamRef RangeFunction RangeSubselect RangeTableFunc RangeTableFuncCol
RangeTableSample RangeVar ResTarget RowExpr SQLValueFunction SelectStmt SetToDefault SortBy String
SubLink TypeCast TypeName VariableShowStmt WindowDef WithClause XmlExpr XmlSerialize
"""

_READ_FIELDS: Final = """
absent_on_null agg_distinct agg_filter agg_order agg_star agg_within_group alias aliascolnames
aliasname all arg arg_location argnumber args arrayBounds attlist boolop booltesttype boolval bsval
btype catalogname coldefexpr coldeflist colexpr collname colname colnames coltype columns
constructor content context_item ctematerialized ctename ctequery ctes cycle_clause cycle_col_list
cycle_mark_column cycle_mark_default cycle_mark_value cycle_path_column defaction defname defresult
distinctClause docexpr elements encoding endOffset expr exprs fields for_ordinality format
format_type frameOptions fromClause func_variadic funcformat funcname functions fval groupClause
groupDistinct havingClause indent indirection inh isNatural is_local is_not_null is_rowsfrom
is_slice isnull item_type items ival join_using_alias jointype key kind larg lateral lexpr lidx
limitCount limitOffset limitOption list_end list_start location method name name_location
named_args names namespaces node nulltesttype number on_empty on_error op operName options
orderClause ordinality output over partitionClause passing pathspec pct_type quals query quotes
rarg raw_expr recursive refname relation relname relpersistence repeatable result returning rexpr
rexpr_list_end rexpr_list_start row_format rowexpr schemaname search_breadth_first search_clause
search_col_list search_seq_column setof sortClause sortby_dir sortby_nulls startOffset string
subLinkType subquery subselect sval targetList testexpr typeName typemod typmod typmods uidx unique
unique_keys useOp usingClause val value valuesLists whereClause windowClause withClause wrapper
xmloption
"""

# Every key that the parse tree of a plain read can have. Not here,
# so that they make a write: intoClause, lockingClause, the statements that change something, COPY
# with a file, a program or FROM.
READ_KEYS: Final[frozenset[str]] = frozenset((_READ_NODES + _READ_FIELDS).split())
