-- outboxd: delete_old_waves
-- Removes the waves of earlier epochs, once what was open in them is marked unknown.
-- $1 my epoch bigint, $2 $3 waves to keep: epochs bigint[], seqs bigint[],
-- $4 timeline integer (expect_timeline)
-- Called at takeover, in the transaction of mark_unknown.
DELETE FROM outboxd.wave AS w
WHERE outboxd.expect_timeline($4)
    AND w.epoch < $1
    AND NOT EXISTS (
        SELECT FROM unnest($2::bigint[], $3::bigint[]) AS own(epoch, seq)
        WHERE own.epoch = w.epoch AND own.seq = w.seq
    )
