//! Ways in which the fake can break the contract, so that a test can show that its check finds them.

/// A way to break the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// It says that it has no pause, and has one.
    HidesPause,
    /// It says that it has a balloon, and has none.
    BoastsBalloon,
    /// Its agent channel can be taken again and again.
    GivesChannelTwice,
    /// Its processors go on after a pause.
    IgnoresPause,
    /// The first wait after the end never returns.
    HangsInWait,
    /// A killed machine says that it exited by itself.
    HidesKill,
    /// `stop` never comes to killing.
    StopsForEver,
    /// Dropped machines live on.
    OutlivesItsHandle,
    /// Dropping an attached handle kills the machine.
    AttachedOwns,
    /// Dead machines are listed as living.
    ListsTheDead,
    /// It answers for machines that have ended.
    MeasuresTheDead,
    /// Logs give all lines.
    LogsTooMuch,
    /// A network interface is no capability, and is left out without an error.
    DropsNetwork,
    /// Frames of the guest are cut off after 1000 bytes.
    CutsFrames,
    /// A restored machine has no network channel.
    ForgetsNetwork,
    /// Bytes of the file channel come back changed.
    ChangesFiles,
    /// A restored machine has no file channel.
    ForgetsFiles,
    /// It takes any file for a kernel.
    TakesAnyKernel,
    /// Memory is not part of a snapshot.
    ForgetsMemory,
    /// Memory in a shared file is not written there.
    ForgetsSharedMemory,
    /// Machines restored from a snapshot share their memory.
    SharesForks,
    /// A restored machine writes into its snapshot.
    WritesSnapshot,
    /// It captures while the guest runs.
    CapturesRunning,
    /// It does not look whether a snapshot is whole.
    TakesDamage,
    /// It does not look whether a snapshot fits.
    TakesAnyShape,
    /// A fork without snapshots.
    ContradictsItself,
    /// The guest does not answer.
    NeverAnswers,
    /// Memory is captured when the capture begins.
    TakesMemoryEarly,
    /// Memory is captured when the capture settles.
    TakesMemoryLate,
    /// One page that was written is not captured.
    LosesAPage,
    /// Pages of zeroes are left out, even where a restored machine began with something else.
    LosesZeroes,
    /// Disks are copied when the capture begins.
    TakesDiskEarly,
    /// Disks are copied when the capture settles.
    TakesDiskLate,
    /// Files of a dropped capture stay.
    LeavesFiles,
    /// A second capture begins beside the first.
    CapturesTwice,
    /// Files that exist are written over.
    OverwritesFiles,
    /// A machine runs after a capture, though it was paused.
    ResumesInCapture,
    /// The memory that a restored machine writes is not captured again.
    CapturesOnlyTheFirst,
    /// What was captured first is captured ever after.
    RepeatsTheFirstCapture,
    /// It captures machines that have ended.
    CapturesTheDead,
    /// Memory's files are made though none are asked for.
    AlwaysCapturesMemory,
    /// The moment can be taken again.
    TakesAgain,
    /// It says that memory was used which the machine has not.
    TouchesTooMuch,
    /// Machines that a dead owner left live on.
    ReapsNothing,
    /// Records of reaped machines stay.
    LeavesRecords,
    /// Machines beside the one to reap are ended too.
    ReapsNeighbours,
    /// A moved machine is still found where it was.
    StaysBehind,
    /// No failure has a diagnosis.
    DiagnosesNothing,
    /// What the guest wrote is in the sentence for the user.
    QuotesTheGuest,
    /// Traces that show nothing have a diagnosis.
    BlamesTheHost,
}
