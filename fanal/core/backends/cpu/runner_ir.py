"""The native runner: LLVM IR that walks a plan on one thread or on all.

A plan is cut into phases; every step of a phase is cut into parts, one per thread; part r of a phase is
part r of each of its steps, in order. Each thread does the part that bears its number, then parts nobody
has begun: a thread that wakes late, or that the system took the core from, finds its work done. When all
parts of a phase are done the next one begins. Which thread does a part changes no result.

Memory shared with Python, in 8-byte words:

    job     0 steps  1 how many  2 scratch memory  3 scratch bytes per thread  4 times, or 0
            5 most parts of a step  6 phases  7 how many  8 how often it ran
            9 first guarded step  10 words that must be 0 for those  11 how many
    step    0 kernel  1 its argument words  2 units  3 first part  4 number of parts
    phase   0 first step  1 end  2 parts  3 which are begun, a bit each  4 how many are done
    times   per step and part: begin, end, in nanoseconds
    thread  0 pool  1 number
    binding 0 how many arrays  1 their addresses last time  2 first use of each, and the end  3 uses
    use     0 address of a word  1 offset: the word becomes the array's address plus offset

Waiting spins for a bounded time, since the usual wait is shorter than a sleep, then sleeps, since an
oversubscribed machine needs the core for somebody else. Who wakes sleepers looks for them only after
publishing (both sequentially consistent), and the kernel compares the word again before it sleeps: no
wake-up is lost.
"""
from __future__ import annotations

STEP_WORDS = 8
PHASE_WORDS = 8
JOB_WORDS = 12
UNGUARDED = 1 << 62
MAX_THREADS = 64  # the bits of a word
SPIN_IN_PLAN = 20_000  # nanoseconds
SPIN_BETWEEN_PLANS = 100_000
_PAUSES = 24  # between two looks at the clock, about half a microsecond

# The pool: bytes, each word in a cache line of its own.
_STARTED = 0  # plans started so far
_IDLE = 64  # threads asleep until the next
_JOB, _STOP = 128, 136
_OPEN = 192  # whether threads may join the job
_ACTIVE = 256  # threads that have
_CALLER = 320  # whether the caller sleeps until they have left
_PASSED = 384  # phases done so far
_WAITING = 448  # threads asleep until the next is
POOL_BYTES = 512


def source(name: str, triple: str, list_items: int, array_data: int) -> str:
    """Return a module defining `ptr name(i64 which)`: the address of one of `ENTRIES`.

    `list_items` and `array_data` are offsets in a Python list and a NumPy array: to its items, to its memory.
    """
    x86 = triple.startswith(("x86_64", "i686"))
    return "\n".join((_table(name), _run(x86), _worker(x86), _STOPPER, _STEPS, _PHASES, _wait(x86),
                      _sleep(triple), _TIME, _bind(list_items, array_data)))


ENTRIES = ("run", "worker", "stop", "bind")


def _table(name: str) -> str:
    rows = [f"  %c{i} = icmp eq i64 %which, {i}\n  %p{i + 1} = select i1 %c{i}, ptr @{entry}, ptr %p{i}"
            for i, entry in enumerate(ENTRIES)]
    return f"define ptr @{name}(i64 %which) {{\n  %p0 = inttoptr i64 0 to ptr\n" + "\n".join(rows) + \
        f"\n  ret ptr %p{len(ENTRIES)}\n}}"


# Ambient flush-to-zero or another rounding mode would change results, and by thread: every thread computes
# with the default control word, and the caller's is restored.

def _enter(x86: bool) -> str:
    return """
  %ambient = alloca i32, align 4
  %control = alloca i32, align 4
  call void @llvm.x86.sse.stmxcsr(ptr %ambient)
  store i32 8064, ptr %control, align 4
  call void @llvm.x86.sse.ldmxcsr(ptr %control)""" if x86 else ""


def _leave(x86: bool) -> str:
    return "\n  call void @llvm.x86.sse.ldmxcsr(ptr %ambient)" if x86 else ""


def _run(x86: bool) -> str:
    """run(job, pool): on the calling thread alone when pool is null, else on it and the pool's threads."""
    declare = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare void @llvm.x86.sse2.pause()""" if x86 else ""
    return f"""{declare}
define internal void @run(ptr %job, ptr %pool) {{
entry:{_enter(x86)}
  %alone = icmp eq ptr %pool, null
  br i1 %alone, label %serial, label %parallel
serial:
  call void @serial(ptr %job)
  br label %done
parallel:
  call void @reset(ptr %job)
  %slot = getelementptr i8, ptr %pool, i64 {_JOB}
  store ptr %job, ptr %slot, align 8
  %started = getelementptr i8, ptr %pool, i64 {_STARTED}
  %idle = getelementptr i8, ptr %pool, i64 {_IDLE}
  %open = getelementptr i8, ptr %pool, i64 {_OPEN}
  %active = getelementptr i8, ptr %pool, i64 {_ACTIVE}
  %caller = getelementptr i8, ptr %pool, i64 {_CALLER}
  %closed = atomicrmw xchg ptr %open, i32 1 seq_cst
  %before = atomicrmw add ptr %started, i32 1 seq_cst
  %sleepers = load atomic i32, ptr %idle seq_cst, align 4
  %some = icmp ne i32 %sleepers, 0
  br i1 %some, label %wake, label %work
wake:
  call void @wake(ptr %started)
  br label %work
work:
  call void @phases(ptr %job, ptr %pool, i64 0)
  %opened = atomicrmw xchg ptr %open, i32 0 seq_cst
  br label %leaving
leaving:
  %inside = load atomic i32, ptr %active seq_cst, align 4
  %empty = icmp eq i32 %inside, 0
  br i1 %empty, label %done, label %stay
stay:
  call void @wait(ptr %active, i32 %inside, ptr %caller, i64 {SPIN_IN_PLAN})
  br label %leaving
done:{_leave(x86)}
  %ranp = getelementptr i8, ptr %job, i64 64
  %ran = load i64, ptr %ranp, align 8
  %ran1 = add i64 %ran, 1
  store i64 %ran1, ptr %ranp, align 8
  ret void
}}"""


def _worker(x86: bool) -> str:
    """worker(thread): the life of a pool thread. It joins jobs while they are open, and may miss any."""
    return f"""
define internal ptr @worker(ptr %thread) {{
entry:{_enter(x86)}
  %pool = load ptr, ptr %thread, align 8
  %tp = getelementptr i8, ptr %thread, i64 8
  %t = load i64, ptr %tp, align 8
  %started = getelementptr i8, ptr %pool, i64 {_STARTED}
  %idle = getelementptr i8, ptr %pool, i64 {_IDLE}
  %slot = getelementptr i8, ptr %pool, i64 {_JOB}
  %stop = getelementptr i8, ptr %pool, i64 {_STOP}
  %open = getelementptr i8, ptr %pool, i64 {_OPEN}
  %active = getelementptr i8, ptr %pool, i64 {_ACTIVE}
  %caller = getelementptr i8, ptr %pool, i64 {_CALLER}
  br label %next
next:
  %seen = phi i32 [ 0, %entry ], [ %now, %left ], [ %now, %rouse ]
  call void @wait(ptr %started, i32 %seen, ptr %idle, i64 {SPIN_BETWEEN_PLANS})
  %now = load atomic i32, ptr %started seq_cst, align 4
  %flag = load atomic i32, ptr %stop seq_cst, align 4
  %ends = icmp ne i32 %flag, 0
  br i1 %ends, label %end, label %join
join:
  ; The caller closes the job and then waits for those inside; a thread enters and then looks if it is open.
  %others = atomicrmw add ptr %active, i32 1 seq_cst
  %state = load atomic i32, ptr %open seq_cst, align 4
  %is.open = icmp ne i32 %state, 0
  br i1 %is.open, label %go, label %leave
go:
  %job = load ptr, ptr %slot, align 8
  call void @phases(ptr %job, ptr %pool, i64 %t)
  br label %leave
leave:
  %inside = atomicrmw sub ptr %active, i32 1 seq_cst
  %asleep = load atomic i32, ptr %caller seq_cst, align 4
  %some = icmp ne i32 %asleep, 0
  br i1 %some, label %rouse, label %left
left:
  br label %next
rouse:
  call void @wake(ptr %active)
  br label %next
end:{_leave(x86)}
  ret ptr null
}}"""


# stop(pool): makes the threads end.
_STOPPER = f"""
define internal void @stop(ptr %pool) {{
  %stop = getelementptr i8, ptr %pool, i64 {_STOP}
  store atomic i32 1, ptr %stop seq_cst, align 4
  %started = getelementptr i8, ptr %pool, i64 {_STARTED}
  %before = atomicrmw add ptr %started, i32 1 seq_cst
  call void @wake(ptr %started)
  ret void
}}"""

# serial(job): every step as a whole. part(job, phase, r, scratch): part r of a phase.
# once(job, i, step, r, lo, hi, scratch): the units [lo, hi) of step i, which are its part r; nothing of a guarded step
# if a word is set.
_STEPS = f"""
define internal void @serial(ptr %job) {{
entry:
  %steps = load ptr, ptr %job, align 8
  %countp = getelementptr i8, ptr %job, i64 8
  %count = load i64, ptr %countp, align 8
  %scratchp = getelementptr i8, ptr %job, i64 16
  %scratch = load ptr, ptr %scratchp, align 8
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  %at = mul i64 %i, {8 * STEP_WORDS}
  %step = getelementptr i8, ptr %steps, i64 %at
  %unitsp = getelementptr i8, ptr %step, i64 16
  %units = load i64, ptr %unitsp, align 8
  call void @once(ptr %job, i64 %i, ptr %step, i64 0, i64 0, i64 %units, ptr %scratch)
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
define internal void @part(ptr %job, ptr %phase, i64 %r, ptr %scratch) {{
entry:
  %steps = load ptr, ptr %job, align 8
  %first = load i64, ptr %phase, align 8
  %endp = getelementptr i8, ptr %phase, i64 8
  %end = load i64, ptr %endp, align 8
  br label %loop
loop:
  %i = phi i64 [ %first, %entry ], [ %i1, %next ]
  %at = mul i64 %i, {8 * STEP_WORDS}
  %step = getelementptr i8, ptr %steps, i64 %at
  %unitsp = getelementptr i8, ptr %step, i64 16
  %units = load i64, ptr %unitsp, align 8
  %fromp = getelementptr i8, ptr %step, i64 24
  %from = load i64, ptr %fromp, align 8
  %widthp = getelementptr i8, ptr %step, i64 32
  %width = load i64, ptr %widthp, align 8
  %share = sub i64 %r, %from
  %mine = icmp ult i64 %share, %width
  br i1 %mine, label %divide, label %next
divide:
  %a = mul i64 %units, %share
  %lo = udiv i64 %a, %width
  %b = add i64 %a, %units
  %hi = udiv i64 %b, %width
  call void @once(ptr %job, i64 %i, ptr %step, i64 %r, i64 %lo, i64 %hi, ptr %scratch)
  br label %next
next:
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}}
define internal void @once(ptr %job, i64 %i, ptr %step, i64 %r, i64 %lo, i64 %hi, ptr %scratch) {{
entry:
  %guardp = getelementptr i8, ptr %job, i64 72
  %guard = load i64, ptr %guardp, align 8
  %guarded = icmp sge i64 %i, %guard
  br i1 %guarded, label %look, label %go
look:
  %wordsp = getelementptr i8, ptr %job, i64 80
  %words = load ptr, ptr %wordsp, align 8
  %manyp = getelementptr i8, ptr %job, i64 88
  %many = load i64, ptr %manyp, align 8
  br label %test
test:
  %k = phi i64 [ 0, %look ], [ %k1, %test ]
  %found = phi i64 [ 0, %look ], [ %found1, %test ]
  %wordp = getelementptr i64, ptr %words, i64 %k
  %word = load i64, ptr %wordp, align 8
  %found1 = or i64 %found, %word
  %k1 = add i64 %k, 1
  %rest = icmp slt i64 %k1, %many
  br i1 %rest, label %test, label %decide
decide:
  %clear = icmp eq i64 %found1, 0
  br i1 %clear, label %go, label %skip
skip:
  ret void
go:
  %kernel = load ptr, ptr %step, align 8
  %argsp = getelementptr i8, ptr %step, i64 8
  %args = load ptr, ptr %argsp, align 8
  %timesp = getelementptr i8, ptr %job, i64 32
  %times = load ptr, ptr %timesp, align 8
  %timed = icmp ne ptr %times, null
  br i1 %timed, label %clocked, label %plain
plain:
  call void %kernel(ptr %args, i64 %lo, i64 %hi, ptr %scratch)
  ret void
clocked:
  %partsp = getelementptr i8, ptr %job, i64 40
  %parts = load i64, ptr %partsp, align 8
  %row = mul i64 %i, %parts
  %cell = add i64 %row, %r
  %offset = mul i64 %cell, 16
  %began = getelementptr i8, ptr %times, i64 %offset
  %ended = getelementptr i8, ptr %began, i64 8
  %t0 = call i64 @nanoseconds()
  call void %kernel(ptr %args, i64 %lo, i64 %hi, ptr %scratch)
  %t1 = call i64 @nanoseconds()
  store i64 %t0, ptr %began, align 8
  store i64 %t1, ptr %ended, align 8
  ret void
}}"""

# reset(job): no part is begun. phases(job, pool, t): what thread t does for a job.
_PHASES = f"""
define internal void @reset(ptr %job) {{
entry:
  %firstp = getelementptr i8, ptr %job, i64 48
  %first = load ptr, ptr %firstp, align 8
  %countp = getelementptr i8, ptr %job, i64 56
  %count = load i64, ptr %countp, align 8
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  %at = mul i64 %i, {8 * PHASE_WORDS}
  %phase = getelementptr i8, ptr %first, i64 %at
  %begun = getelementptr i8, ptr %phase, i64 24
  %finished = getelementptr i8, ptr %phase, i64 32
  store i64 0, ptr %begun, align 8
  store i64 0, ptr %finished, align 8
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
define internal void @phases(ptr %job, ptr %pool, i64 %t) {{
entry:
  %basep = getelementptr i8, ptr %job, i64 16
  %base = load ptr, ptr %basep, align 8
  %stridep = getelementptr i8, ptr %job, i64 24
  %stride = load i64, ptr %stridep, align 8
  %shift = mul i64 %stride, %t
  %scratch = getelementptr i8, ptr %base, i64 %shift
  %firstp = getelementptr i8, ptr %job, i64 48
  %first = load ptr, ptr %firstp, align 8
  %countp = getelementptr i8, ptr %job, i64 56
  %count = load i64, ptr %countp, align 8
  %passed = getelementptr i8, ptr %pool, i64 {_PASSED}
  %waiting = getelementptr i8, ptr %pool, i64 {_WAITING}
  br label %phase
phase:
  %p = phi i64 [ 0, %entry ], [ %p1, %following ]
  %at = mul i64 %p, {8 * PHASE_WORDS}
  %this = getelementptr i8, ptr %first, i64 %at
  %partsp = getelementptr i8, ptr %this, i64 16
  %parts = load i64, ptr %partsp, align 8
  %begun = getelementptr i8, ptr %this, i64 24
  %finished = getelementptr i8, ptr %this, i64 32
  %within = icmp ult i64 %t, %parts
  %start = select i1 %within, i64 %t, i64 0
  br label %claim
claim:
  %k = phi i64 [ 0, %phase ], [ %k1, %nextpart ]
  %sum = add i64 %start, %k
  %over = icmp uge i64 %sum, %parts
  %less = sub i64 %sum, %parts
  %r = select i1 %over, i64 %less, i64 %sum
  %bit = shl i64 1, %r
  %mask = load atomic i64, ptr %begun monotonic, align 8
  %have = and i64 %mask, %bit
  %free = icmp eq i64 %have, 0
  br i1 %free, label %try, label %nextpart
try:
  %old = atomicrmw or ptr %begun, i64 %bit acq_rel
  %had = and i64 %old, %bit
  %won = icmp eq i64 %had, 0
  br i1 %won, label %work, label %nextpart
work:
  call void @part(ptr %job, ptr %this, i64 %r, ptr %scratch)
  %before = atomicrmw add ptr %finished, i64 1 acq_rel
  %after = add i64 %before, 1
  %all = icmp eq i64 %after, %parts
  br i1 %all, label %complete, label %nextpart
complete:
  %number = atomicrmw add ptr %passed, i32 1 seq_cst
  %sleepers = load atomic i32, ptr %waiting seq_cst, align 4
  %some = icmp ne i32 %sleepers, 0
  br i1 %some, label %rouse, label %nextpart
rouse:
  call void @wake(ptr %passed)
  br label %nextpart
nextpart:
  %k1 = add i64 %k, 1
  %more = icmp ult i64 %k1, %parts
  br i1 %more, label %claim, label %check
check:
  %p1 = add i64 %p, 1
  %isnt.last = icmp slt i64 %p1, %count
  %is.caller = icmp eq i64 %t, 0
  %must.wait = or i1 %isnt.last, %is.caller
  br i1 %must.wait, label %await, label %done
await:
  %seen = load atomic i32, ptr %passed seq_cst, align 4
  %n = load atomic i64, ptr %finished seq_cst, align 8
  %complete.now = icmp eq i64 %n, %parts
  br i1 %complete.now, label %following, label %pause
pause:
  call void @wait(ptr %passed, i32 %seen, ptr %waiting, i64 {SPIN_IN_PLAN})
  br label %await
following:
  br i1 %isnt.last, label %phase, label %done
done:
  ret void
}}"""


def _wait(x86: bool) -> str:
    """wait(word, seen, sleepers, spin): returns when the word is no longer `seen`."""
    pause = "call void @llvm.x86.sse2.pause()" if x86 else "call void asm sideeffect \"yield\", \"\"()"
    return f"""
define internal void @wait(ptr %word, i32 %seen, ptr %sleepers, i64 %spin) {{
entry:
  %early = load atomic i32, ptr %word acquire, align 4
  %ready = icmp ne i32 %early, %seen
  br i1 %ready, label %done, label %begin
begin:
  %t0 = call i64 @nanoseconds()
  %limit = add i64 %t0, %spin
  br label %spinning
spinning:
  %k = phi i32 [ 0, %begin ], [ %k1, %again ], [ 0, %look ]
  {pause}
  %value = load atomic i32, ptr %word acquire, align 4
  %changed = icmp ne i32 %value, %seen
  br i1 %changed, label %done, label %again
again:
  %k1 = add i32 %k, 1
  %enough = icmp sge i32 %k1, {_PAUSES}
  br i1 %enough, label %look, label %spinning
look:
  %t1 = call i64 @nanoseconds()
  %left = icmp slt i64 %t1, %limit
  br i1 %left, label %spinning, label %tired
tired:
  %count = atomicrmw add ptr %sleepers, i32 1 seq_cst
  br label %sleeping
sleeping:
  %now = load atomic i32, ptr %word seq_cst, align 4
  %woken = icmp ne i32 %now, %seen
  br i1 %woken, label %up, label %down
down:
  call void @sleep(ptr %word, i32 %seen)
  br label %sleeping
up:
  %rest = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %done
done:
  ret void
}}"""


def _sleep(triple: str) -> str:
    """sleep(word, seen) and wake(word): a futex on Linux; elsewhere short naps that end by themselves."""
    if "linux" in triple:
        number = 202 if triple.startswith("x86_64") else 98  # the generic table, as on AArch64
        futex = f"i64 (i64, ...) @syscall(i64 {number}"  # 128: wait, 129: wake, within the process
        return f"""
declare i64 @syscall(i64, ...)
define internal void @sleep(ptr %word, i32 %seen) {{
  %r = call {futex}, ptr %word, i32 128, i32 %seen, ptr null, ptr null, i32 0)
  ret void
}}
define internal void @wake(ptr %word) {{
  %r = call {futex}, ptr %word, i32 129, i32 2147483647, ptr null, ptr null, i32 0)
  ret void
}}"""
    return """
declare i32 @usleep(i32)
define internal void @sleep(ptr %word, i32 %seen) {
  %r = call i32 @usleep(i32 50)
  ret void
}
define internal void @wake(ptr %word) {
  ret void
}"""


# CLOCK_MONOTONIC, which the C library reads without entering the kernel.
_TIME = """
declare i32 @clock_gettime(i32, ptr)
define internal i64 @nanoseconds() {
  %now = alloca [2 x i64], align 8
  %r = call i32 @clock_gettime(i32 1, ptr %now)
  %s = load i64, ptr %now, align 8
  %np = getelementptr i8, ptr %now, i64 8
  %n = load i64, ptr %np, align 8
  %ns = mul i64 %s, 1000000000
  %t = add i64 %ns, %n
  ret i64 %t
}"""


def _bind(list_items: int, array_data: int) -> str:
    """bind(list, binding): write the addresses of arrays that moved since last time where steps use them."""
    return f"""
define internal void @bind(ptr %list, ptr %binding) {{
entry:
  %itemsp = getelementptr i8, ptr %list, i64 {list_items}
  %items = load ptr, ptr %itemsp, align 8
  %n = load i64, ptr %binding, align 8
  %knownp = getelementptr i8, ptr %binding, i64 8
  %known = load ptr, ptr %knownp, align 8
  %startsp = getelementptr i8, ptr %binding, i64 16
  %starts = load ptr, ptr %startsp, align 8
  %usesp = getelementptr i8, ptr %binding, i64 24
  %uses = load ptr, ptr %usesp, align 8
  %any = icmp sgt i64 %n, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %following, %next ]
  %itemp = getelementptr ptr, ptr %items, i64 %i
  %item = load ptr, ptr %itemp, align 8
  %datap = getelementptr i8, ptr %item, i64 {array_data}
  %data = load i64, ptr %datap, align 8
  %oldp = getelementptr i64, ptr %known, i64 %i
  %old = load i64, ptr %oldp, align 8
  %same = icmp eq i64 %data, %old
  br i1 %same, label %next, label %moved
moved:
  store i64 %data, ptr %oldp, align 8
  %startp = getelementptr i64, ptr %starts, i64 %i
  %start = load i64, ptr %startp, align 8
  %endp = getelementptr i8, ptr %startp, i64 8
  %end = load i64, ptr %endp, align 8
  %used = icmp slt i64 %start, %end
  br i1 %used, label %patch, label %next
patch:
  %u = phi i64 [ %start, %moved ], [ %u1, %patch ]
  %shift = mul i64 %u, 16
  %use = getelementptr i8, ptr %uses, i64 %shift
  %word = load ptr, ptr %use, align 8
  %offp = getelementptr i8, ptr %use, i64 8
  %off = load i64, ptr %offp, align 8
  %address = add i64 %data, %off
  store i64 %address, ptr %word, align 8
  %u1 = add i64 %u, 1
  %more.uses = icmp slt i64 %u1, %end
  br i1 %more.uses, label %patch, label %next
next:
  %following = add i64 %i, 1
  %more = icmp slt i64 %following, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""
