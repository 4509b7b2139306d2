//! The ways in which a store with members may be wrong, with the clause that each breaks and the case that finds it.

macro_rules! faults {
    ($($fault:ident $clause:literal $case:literal $sentence:literal)+) => {
        /// One way to be wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault {
            $($fault),+
        }

        /// Each fault, the clause that the suite must name, the case that finds it, and what the store does.
        pub(crate) const FAULTS: &[(Fault, &str, &str, &str)] = &[$((Fault::$fault, $clause, $case, $sentence)),+];
    };
}

faults! {
    StaysWithWhatHangs "S3" "time::a_short_timeout_recovers" "a store that stays with an endpoint that hangs"
    FloodsWhatHangs "S3" "time::dropped_calls_recover" "a store that connects to every endpoint for each call"
    HasItsOwnTimeout "S3" "time::a_long_timeout_waits" "a store whose own timeout counts beside the handle's"
    OneAtATime "S2" "isolation::large_writes_on_a_slow_line" "a store whose calls wait for large ones"
    NamesNoEndpoint "A5" "time::late_calls_name_their_endpoint" "a store whose late calls do not name their endpoint"
    GivesUpAtOnce "S5" "planned::leadership_moved" "a store that gives up when one member cannot serve"
    SendsBlindly "S5" "faults::an_endpoint_that_resets_is_asked_last" "a store that sends writes to an endpoint that has just reset others"
    FailsWithItsConnection "S5" "clusters::every_member_restarted" "a store whose calls fail when a connection breaks"
    LeasesEndWithTheirMember "L1" "planned::leases_of_a_member_that_left" "a store whose leases end with their member, and that states otherwise"
    QueuedCountsAsSent "W6" "time::refused_writes_were_not_applied" "a store that does not know which writes have left"
    SentCountsAsQueued "W6" "time::queued_writes_were_not_applied" "a store that says of writes that have left that they were not sent"
}
