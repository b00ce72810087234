-- outboxd: lock_seen
-- Whether the lock that was taken on another way is held here: only then both ways lead to the same database.
-- $1 key bigint, $2 process id integer
-- Columns: boolean.
-- Called at takeover and with each heartbeat, where there are two ways.
SELECT EXISTS (
    SELECT FROM pg_locks AS l
    WHERE l.locktype = 'advisory'
        AND l.database = (SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database())
        AND (l.classid::bigint << 32) | l.objid::bigint = $1
        AND l.objsubid = 1
        AND l.pid = $2
        AND l.granted
)
