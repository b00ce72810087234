//! Every statement that outboxd runs, with the types of its parameters.
//!
//! A server that prepares a statement tells the types itself. Through a transaction pooler nothing is prepared
//! (`store::transaction`), and they are told to the server: as they stand here, in the order of `$1`, `$2` … That they
//! are what the server would have told is tested for all of them (`tests/it/statements.rs`).

use tokio_postgres::types::Type;

/// A statement and the name under which errors and the server's log speak of it.
#[derive(Debug, Clone, Copy)]
pub struct Statement {
    pub name: &'static str,
    pub sql: &'static str,
    pub types: &'static [Type],
}

/// `files`: the name is the file's, `sql/native/wave.sql`. `lines`: too short for a file of their own.
macro_rules! statements {
    (
        files { $($file:ident $path:literal [$($of_file:ident),*];)+ }
        lines { $($line:ident $name:literal $sql:literal [$($of_line:ident),*];)+ }
    ) => {
        $(pub const $file: Statement = Statement {
            name: $path,
            sql: include_str!(concat!("../../sql/", $path, ".sql")),
            types: &[$(Type::$of_file),*],
        };)+
        $(pub const $line: Statement = Statement {
            name: $name,
            sql: concat!("-- outboxd: ", $name, "\n", $sql),
            types: &[$(Type::$of_line),*],
        };)+
        pub const ALL: &[Statement] = &[$($file),+, $($line),+];
    };
}

statements! {
    files {
        // Reading, waves, records, receipts.
        DISCOVER "native/discover" [TEXT, TIMESTAMPTZ, INT8, TIMESTAMPTZ, INT8, TEXT_ARRAY, INT8];
        NEXT_DUE "native/next_due" [];
        TEMPLATES "native/templates" [];
        WAVE "native/wave" [
            INT8, INT8, TEXT, TEXT, INT8_ARRAY, INT4_ARRAY, XID_ARRAY, TEXT_ARRAY, TIMESTAMPTZ_ARRAY
        ];
        SETTLE_NOTED "native/settle_noted" [INT8_ARRAY];
        WAVE_TOMBSTONE "native/wave_tombstone" [INT8, INT8, TEXT, TEXT];
        RECORD "native/record" [
            INT8_ARRAY, TIMESTAMPTZ_ARRAY, INT4_ARRAY, INT4_ARRAY, XID_ARRAY, TEXT_ARRAY, BOOL_ARRAY, TEXT_ARRAY,
            TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT2_ARRAY, INT8_ARRAY, INT8_ARRAY, INT4
        ];
        LOCK_FREE "native/lock_free" [INT8_ARRAY];
        READ_STATES "native/read_states" [INT8_ARRAY];
        ATTEMPT_NOTE "daemon/attempt_note" [
            INT8_ARRAY, TIMESTAMPTZ_ARRAY, INT4_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY
        ];
        RECEIPTS "native/receipts" [INT8_ARRAY, INT4_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT4];
        PROCESSED "native/processed" [
            INT8_ARRAY, INT4_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT4
        ];
        NO_CREDIT "native/no_credit" [INT8_ARRAY, INT4_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT4];
        INBOUND "native/inbound" [
            TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT8_ARRAY, INT4_ARRAY, TEXT_ARRAY,
            INT8_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT4
        ];

        SUSPECTS "native/suspects" [TEXT_ARRAY, FLOAT8, FLOAT8, FLOAT8, TEXT];
        AUTO_REPLY "native/auto_reply" [INT8_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, FLOAT8];

        // What changes rows without anybody sending.
        EXPIRE "native/expire" [FLOAT8, INT8_ARRAY];
        RESEND "native/resend" [TEXT, FLOAT8];
        DUE_AGAIN "native/due_again" [INT8];
        MARK_OVERDUE "native/mark_overdue" [FLOAT8];
        REQUEUE_REFUSED "native/requeue_refused" [INT8_ARRAY, TEXT_ARRAY];
        UNCERTAIN "native/uncertain" [];
        RELEASE "native/release" [];

        // Leadership.
        LOCK_LIMIT "daemon/lock_limit" [];
        LOCK_SESSION "daemon/lock_session" [INT8];
        LOCK_TRANSACTION "daemon/lock_transaction" [INT8];
        LOCK_SEEN "daemon/lock_seen" [INT8, INT4];
        LEADER_READ "daemon/leader_read" [];
        LEADER_TAKE "daemon/leader_take" [TEXT, INT8, INT4, TEXT, BOOL];
        OPEN_WAVES "daemon/open_waves" [INT8, INT8_ARRAY, INT8_ARRAY, INT4];
        DELETE_OLD_WAVES "daemon/delete_old_waves" [INT8, INT8_ARRAY, INT8_ARRAY, INT4];
        MARK_UNKNOWN "native/mark_unknown" [
            INT8_ARRAY, TIMESTAMPTZ_ARRAY, INT4_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT
        ];
        REAPPLY "native/reapply" [
            INT8_ARRAY, TIMESTAMPTZ_ARRAY, INT4_ARRAY, TEXT_ARRAY, TEXT_ARRAY, TEXT_ARRAY, INT4
        ];
        HERE "daemon/here" [TEXT];
        VOUCH "daemon/vouch" [TEXT, TEXT, INT4, TEXT, TEXT, FLOAT8, INT8, INT4, BOOL, TEXT];
        WITNESSES "daemon/witnesses" [];
        CERTAIN "daemon/certain" [INT8];
        ADOPT "daemon/adopt" [INT8, INT4];

        // What the daemon shows and hears, and the register.
        HEARTBEAT "daemon/heartbeat" [TEXT, TEXT, INT4, TEXT, TEXT, FLOAT8, INT8, INT4];
        FAREWELL "daemon/farewell" [TEXT];
        CONTROL "daemon/control" [INT8, INT4];
        GATEWAY_STATE "daemon/gateway_state" [TEXT, TEXT, TEXT, INT8];
        ALARM_OPEN "daemon/alarm_open" [TEXT, TEXT, TEXT];
        ALARM_CLEAR "daemon/alarm_clear" [TEXT, TEXT];
        ALARM_CLEAR_SINCE "daemon/alarm_clear_since" [TEXT, TEXT, FLOAT8];
        REFUSALS_OVER "daemon/refusals_over" [];
        REGISTER "daemon/register" [INT8, FLOAT8];
        NUMBER_PLAN "daemon/number_plan" [TEXT, TEXT];
        DOORBELL "daemon/doorbell" [];
        SLEEP_BARRIER "daemon/sleep_barrier" [];
        SLEEP_SETTLED "daemon/sleep_settled" [TEXT, TEXT_ARRAY];
        LOCK_HOLDERS "daemon/lock_holders" [BOOL];

        // Commands.
        INSERT "native/insert" [TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT, TEXT];
        WATCH "native/watch" [INT8];
        SELECT_BY_STATUS "native/select_by_status" [TEXT, INT8, FLOAT8, INT8, TEXT];
        RESOLVE "native/resolve" [INT8_ARRAY, TEXT, TEXT];
        OPT_OUT_ADD "native/opt_out_add" [TEXT_ARRAY, TEXT_ARRAY, TIMESTAMPTZ_ARRAY, TEXT_ARRAY, TEXT_ARRAY];
        OPT_OUT_REMOVE "native/opt_out_remove" [TEXT_ARRAY];
        OPT_OUT_LIST "native/opt_out_list" [TEXT, TEXT];
        SAMPLE "native/sample" [INT8];
        STATUS "daemon/status" [];
        STATUS_GATEWAYS "daemon/status_gateways" [];
        STATUS_ALARMS "daemon/status_alarms" [];
        STATUS_DAEMONS "daemon/status_daemons" [];
        PLACE "daemon/place" [];
        CHECK_SERVER "daemon/check_server" [];
        CHECK_GRANTS "daemon/check_grants" [];
        CHECK_TRIGGERS "daemon/check_triggers" [];
        CHECK_ARROWS "daemon/check_arrows" [TEXT_ARRAY];
        CHECK_INDEXES "daemon/check_indexes" [];
        CHECK_COLUMNS "daemon/check_columns" [];
        CHECK_HORIZON "daemon/check_horizon" [];
    }
    lines {
        CONFIRM "confirm" "SELECT pg_backend_pid()" [];
        CANCEL "cancel" "SELECT sms.cancel($1)" [INT8];
        RETRY "retry" "SELECT sms.retry($1, $2)" [INT8, BOOL];
        HOLD "hold" "SELECT sms.hold($1)::text" [TEXT];
        RESUME "resume" "SELECT sms.resume($1)::text" [TEXT];
        ACKNOWLEDGE "acknowledge" "SELECT sms.acknowledge()" [];
        SCHEMA_EXISTS "schema_exists" "SELECT to_regclass('outboxd.migration') IS NOT NULL" [];
        SCHEMA_VERSION "schema_version" "SELECT m.version, m.sha256 FROM outboxd.migration AS m ORDER BY m.version" [];
    }
}
