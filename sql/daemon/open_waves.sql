-- outboxd: open_waves
-- Waves of earlier epochs, a row a message.
-- $1 my epoch bigint, $2 $3 waves that this very process still has under way: epochs bigint[], seqs bigint[],
-- $4 timeline integer (expect_timeline)
-- Columns: id, attempt, created_at of the row, gateway, nonce. Locks: none. Called at takeover, after leader_take has committed.
SELECT a.id, a.attempt, a.row_made, w.gateway, w.nonce
FROM outboxd.wave AS w
CROSS JOIN LATERAL unnest(w.ids, w.attempts, w.rows_made) AS a(id, attempt, row_made)
WHERE outboxd.expect_timeline($4)
    AND w.epoch < $1
    AND NOT EXISTS (
        SELECT FROM unnest($2::bigint[], $3::bigint[]) AS own(epoch, seq)
        WHERE own.epoch = w.epoch AND own.seq = w.seq
    )
ORDER BY a.id, a.row_made, a.attempt
