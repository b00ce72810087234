-- outboxd: open_waves
-- Waves of earlier epochs, a row a message.
-- $1 my epoch bigint, $2 $3 waves that this very process still has under way: epochs bigint[], seqs bigint[]
-- Columns: id, attempt, created_at of the row, gateway, nonce. Locks: none. Called at takeover, after leader_take has committed.
SELECT a.id, a.attempt, a.row_made, w.gateway, w.nonce
FROM outboxd.wave AS w
CROSS JOIN LATERAL unnest(w.ids, w.attempts, w.rows_made) AS a(id, attempt, row_made)
WHERE w.epoch < $1
    AND NOT EXISTS (
        SELECT FROM unnest($2::bigint[], $3::bigint[]) AS own(epoch, seq)
        WHERE own.epoch = w.epoch AND own.seq = w.seq
    )
ORDER BY a.id, a.row_made, a.attempt
