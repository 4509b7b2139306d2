//! The ways in which a store may be wrong, with the clause that each breaks.

macro_rules! faults {
    ($($fault:ident $clause:literal $sentence:literal)+) => {
        /// One way to be wrong.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Fault {
            $($fault),+
        }

        /// Each fault, the clause that the suite must name, and what the store does.
        pub(crate) const FAULTS: &[(Fault, &str, &str)] = &[$((Fault::$fault, $clause, $sentence)),+];
    };
}

faults! {
    PlusBecomesSpace "K1" "a store that turns + in keys into a space"
    PrefixIsDirectory "K2" "a store that lists a prefix as a directory"
    EmptyIsAbsent "K3" "a store that reads empty values as absent"
    LargeIsCut "K3" "a store that cuts large values"
    RootIsPrefix "K4" "a store that takes the root for a prefix"
    StaleReads "R1" "a store with stale reads"
    TornListings "R2" "a store that lists in two reads"
    ListingIndexAhead "R2" "a store whose listings are ahead of history"
    ChildrenRepeated "R3" "a store that lists sub-directories once for each key"
    GrandchildrenListed "R3" "a store that lists grandchildren"
    SameValueKeepsIndex "W1" "a store that takes the same value for no write"
    OtherIndexReturned "W1" "a store that returns other indices than it keeps"
    SwapIsNotAtomic "W2" "a store that compares first and swaps later"
    UpdateCreates "W2" "a store whose update creates keys at any index"
    ConflictChanges "W2" "a store that writes and then tells of a conflict"
    RemovalOfNothing "W3" "a store that removes at any index what is not there"
    SiblingsDeleted "W4" "a store that deletes a tree by its string"
    TreeInPieces "W4" "a store that deletes a tree key by key"
    TransactionInPieces "W5" "a store that applies transactions one by one"
    ChecksIgnored "W5" "a store that ignores the checks of transactions"
    ConflictNamesAnother "W5" "a store whose conflicts name another key"
    AppliedButUnavailable "W6" "a store that says unavailable after it wrote"
    EventMissing "E1" "a watch that leaves out an event"
    GapAfterReconnect "E1" "a watch with a gap after it reconnected"
    StartsLate "E1" "a watch that begins after it returned"
    EventRepeated "E4" "a watch that repeats an event"
    EventTypeWrong "E2" "a watch that shows updates as creations"
    EventIndexWrong "E2" "a watch with other indices than the writes"
    DeletionWithData "E2" "a watch whose deletions carry data"
    EventsSwapped "E2" "a watch that swaps events"
    RecreationMerged "E3" "a watch that shows a deletion and a creation as an update"
    LastStateWithheld "E3" "a watch that holds the last state back"
    WatchEndsSilently "E4" "a watch that ends without an error"
    WritersWaitForReaders "E5" "a store whose writers wait for slow watches"
    ObserveHasGap "E6" "an observation with a gap"
    ObserveOverlaps "E6" "an observation that overlaps"
    EphemeralOverwrites "L1" "a store whose ephemeral keys replace others"
    ExpiresEarly "L1" "a store that ends leases early"
    NeverExpires "L1" "a store that never ends leases"
    WritesAfterLoss "L2" "a store that lets the former holder write"
    RenewsAfterLoss "L2" "a store that renews what is lost"
    DestroysAnothers "L2" "a store that lets the former holder destroy"
    TimeRoundedDown "L3" "a store that grants less time than was asked for"
    LockGivenTwice "L4" "a store that gives a lock twice"
    TryLockWaits "L4" "a store that waits where it should only try"
    LocksValues "L4" "a store that locks keys with values"
    WaitGoesOn "L4" "a store whose waits go on when abandoned"
    TokenRepeats "L5" "a store with tokens that repeat"
    GuardNotChecked "L5" "a store that does not check guards"
    ClockTooLate "L6" "a store that says leases began later than they did"
    UnlockKeepsIt "L7" "a store whose unlock frees nothing"
    RenewalDoesNothing "L8" "a store whose renewals do nothing"
    CallsLiveAtHome "S1" "a store whose writes need the first runtime"
    WatchesLiveAtHome "S1" "a store whose watches need the first runtime"
    LeasesLiveAtHome "S1" "a store whose leases are given back by the first runtime"
    CancelledCallsFailOthers "S2" "a store where cancelled calls fail others"
    RefusalsFailOthers "S2" "a store where refused calls fail others"
    AbandonedWaitsHoldUpLocks "S2" "a store where abandoned waits hold up other locks"
    ConflictIsUnavailable "A5" "a store that tells of conflicts as unavailability"
}
