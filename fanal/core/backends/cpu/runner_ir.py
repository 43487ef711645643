"""The native runner: LLVM IR that walks a plan's steps on one thread or on all.

Memory shared with Python, in 8-byte words:

    step   0 kernel  1 its argument words  2 units  3 first thread  4 number of threads  5 barrier before it
    job    0 steps   1 how many  2 scratch memory  3 scratch bytes per thread  4 times, or 0
    pool   bytes, each its own cache line: 0 plans started  64 job, number of threads, stop flag  128 sleepers on
           "started"  192 barriers passed  256 arrived at the barrier  320 sleepers at the barrier
           384 plans ended  448 threads that ended this one  512 sleepers on "ended"
    thread 0 pool  1 number
    binding 0 how many arrays  1 their addresses last time  2 first use of each, and the end  3 uses
    use    0 address of a word  1 offset: the word becomes the array's address plus offset

Waiting spins for a bounded time, since the usual wait is shorter than a sleep, then sleeps, since an oversubscribed
machine needs the processor for somebody else. Who wakes sleepers looks for them only after publishing (both
sequentially consistent), and the kernel compares the word again before it sleeps, so no wake-up is lost.
"""
from __future__ import annotations

STEP_WORDS = 8
JOB_WORDS = 5
POOL_BYTES = 576
POOL_THREADS = 72  # offset of the number of threads
SPIN_IN_PLAN = 20_000  # nanoseconds
SPIN_BETWEEN_PLANS = 100_000
_PAUSES = 24  # between two looks at the clock, about half a microsecond

_STARTED, _JOB, _STOP, _IDLE, _PASSED, _ARRIVED, _WAITING = 0, 64, 80, 128, 192, 256, 320
_ENDED, _FINISHED, _CALLER = 384, 448, 512


def source(name: str, triple: str, list_items: int, array_data: int) -> str:
    """Return a module defining `ptr name(i64 which)`: the addresses of run (0), worker (1), copy (2), stop (3), bind (4).

    `list_items` and `array_data` are offsets in a Python list and a NumPy array: to its items, to its memory.
    """
    x86 = triple.startswith(("x86_64", "i686"))
    return "\n".join((_table(name), _run(x86), _worker(x86), _STOPPER, _STEPS, _BARRIER, _wait(x86), _sleep(triple),
                      _TIME, _COPY, _bind(list_items, array_data)))


def _table(name: str) -> str:
    return f"""
define ptr @{name}(i64 %which) {{
  %is.run = icmp eq i64 %which, 0
  %is.worker = icmp eq i64 %which, 1
  %is.copy = icmp eq i64 %which, 2
  %is.stop = icmp eq i64 %which, 3
  %d = select i1 %is.stop, ptr @stop, ptr @bind
  %a = select i1 %is.copy, ptr @copy, ptr %d
  %b = select i1 %is.worker, ptr @worker, ptr %a
  %c = select i1 %is.run, ptr @run, ptr %b
  ret ptr %c
}}"""


# Ambient flush-to-zero or another rounding mode would change results, and by thread: every thread computes with
# the default control word, and the caller's is restored.

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
    """run(job, pool): all steps on the calling thread when pool is null, else on it and the pool's threads."""
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
  call void @steps(ptr %job, ptr null, i64 0)
  br label %done
parallel:
  %slot = getelementptr i8, ptr %pool, i64 {_JOB}
  store ptr %job, ptr %slot, align 8
  %ended = getelementptr i8, ptr %pool, i64 {_ENDED}
  %caller = getelementptr i8, ptr %pool, i64 {_CALLER}
  %seen = load atomic i32, ptr %ended monotonic, align 4
  %started = getelementptr i8, ptr %pool, i64 {_STARTED}
  %idle = getelementptr i8, ptr %pool, i64 {_IDLE}
  %before = atomicrmw add ptr %started, i32 1 seq_cst
  %sleepers = load atomic i32, ptr %idle seq_cst, align 4
  %some = icmp ne i32 %sleepers, 0
  br i1 %some, label %wake, label %work
wake:
  call void @wake(ptr %started)
  br label %work
work:
  call void @steps(ptr %job, ptr %pool, i64 0)
  call void @wait(ptr %ended, i32 %seen, ptr %caller, i64 {SPIN_IN_PLAN})
  br label %done
done:{_leave(x86)}
  ret void
}}"""


def _worker(x86: bool) -> str:
    """worker(thread): the life of a pool thread. Every thread takes part in every parallel job."""
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
  %finished = getelementptr i8, ptr %pool, i64 {_FINISHED}
  %ended = getelementptr i8, ptr %pool, i64 {_ENDED}
  %caller = getelementptr i8, ptr %pool, i64 {_CALLER}
  br label %next
next:
  %seen = phi i32 [ 0, %entry ], [ %now, %go ], [ %now, %tell ], [ %now, %rouse ]
  call void @wait(ptr %started, i32 %seen, ptr %idle, i64 {SPIN_BETWEEN_PLANS})
  %now = add i32 %seen, 1
  %flag = load atomic i32, ptr %stop acquire, align 4
  %ends = icmp ne i32 %flag, 0
  br i1 %ends, label %end, label %go
go:
  %job = load ptr, ptr %slot, align 8
  call void @steps(ptr %job, ptr %pool, i64 %t)
  %done.before = atomicrmw add ptr %finished, i32 1 acq_rel
  %n = call i64 @threads(ptr %pool)
  %n32 = trunc i64 %n to i32
  %last = sub i32 %n32, 2
  %is.last = icmp eq i32 %done.before, %last
  br i1 %is.last, label %tell, label %next
tell:
  store atomic i32 0, ptr %finished monotonic, align 4
  %old = atomicrmw add ptr %ended, i32 1 seq_cst
  %asleep = load atomic i32, ptr %caller seq_cst, align 4
  %some = icmp ne i32 %asleep, 0
  br i1 %some, label %rouse, label %next
rouse:
  call void @wake(ptr %ended)
  br label %next
end:{_leave(x86)}
  ret ptr null
}}"""


_STOPPER = f"""
define internal void @stop(ptr %pool) {{
  %stop = getelementptr i8, ptr %pool, i64 {_STOP}
  store atomic i32 1, ptr %stop release, align 4
  %started = getelementptr i8, ptr %pool, i64 {_STARTED}
  %before = atomicrmw add ptr %started, i32 1 seq_cst
  call void @wake(ptr %started)
  ret void
}}"""


# steps(job, pool, t): thread t's part of a job; all of it when pool is null.
_STEPS = f"""
define internal void @steps(ptr %job, ptr %pool, i64 %t) {{
entry:
  %first = load ptr, ptr %job, align 8
  %countp = getelementptr i8, ptr %job, i64 8
  %count = load i64, ptr %countp, align 8
  %basep = getelementptr i8, ptr %job, i64 16
  %base = load ptr, ptr %basep, align 8
  %stridep = getelementptr i8, ptr %job, i64 24
  %stride = load i64, ptr %stridep, align 8
  %shift = mul i64 %stride, %t
  %scratch = getelementptr i8, ptr %base, i64 %shift
  %timesp = getelementptr i8, ptr %job, i64 32
  %times = load ptr, ptr %timesp, align 8
  %timed = icmp ne ptr %times, null
  %alone = icmp eq ptr %pool, null
  %any = icmp sgt i64 %count, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %following, %next ]
  %at = mul i64 %i, {8 * STEP_WORDS}
  %step = getelementptr i8, ptr %first, i64 %at
  %kernel = load ptr, ptr %step, align 8
  %argsp = getelementptr i8, ptr %step, i64 8
  %args = load ptr, ptr %argsp, align 8
  %unitsp = getelementptr i8, ptr %step, i64 16
  %units = load i64, ptr %unitsp, align 8
  br i1 %alone, label %run, label %shared
shared:
  %fromp = getelementptr i8, ptr %step, i64 24
  %from = load i64, ptr %fromp, align 8
  %widthp = getelementptr i8, ptr %step, i64 32
  %width = load i64, ptr %widthp, align 8
  %fencep = getelementptr i8, ptr %step, i64 40
  %fence = load i64, ptr %fencep, align 8
  %fenced = icmp ne i64 %fence, 0
  br i1 %fenced, label %meet, label %part
meet:
  call void @barrier(ptr %pool)
  br label %part
part:
  %rank = sub i64 %t, %from
  %mine = icmp ult i64 %rank, %width
  br i1 %mine, label %divide, label %next
divide:
  %a = mul i64 %units, %rank
  %lo.part = udiv i64 %a, %width
  %b = add i64 %a, %units
  %hi.part = udiv i64 %b, %width
  %work = icmp ult i64 %lo.part, %hi.part
  br i1 %work, label %run, label %next
run:
  %lo = phi i64 [ 0, %loop ], [ %lo.part, %divide ]
  %hi = phi i64 [ %units, %loop ], [ %hi.part, %divide ]
  br i1 %timed, label %clocked, label %plain
plain:
  call void %kernel(ptr %args, i64 %lo, i64 %hi, ptr %scratch)
  br label %next
clocked:
  %threads = call i64 @threads(ptr %pool)
  %row = mul i64 %i, %threads
  %cell = add i64 %row, %t
  %offset = mul i64 %cell, 16
  %began = getelementptr i8, ptr %times, i64 %offset
  %ended = getelementptr i8, ptr %began, i64 8
  %t0 = call i64 @nanoseconds()
  call void %kernel(ptr %args, i64 %lo, i64 %hi, ptr %scratch)
  %t1 = call i64 @nanoseconds()
  store i64 %t0, ptr %began, align 8
  store i64 %t1, ptr %ended, align 8
  br label %next
next:
  %following = add i64 %i, 1
  %more = icmp slt i64 %following, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}
define internal i64 @threads(ptr %pool) {{
entry:
  %alone = icmp eq ptr %pool, null
  br i1 %alone, label %one, label %many
one:
  ret i64 1
many:
  %p = getelementptr i8, ptr %pool, i64 {POOL_THREADS}
  %n = load i64, ptr %p, align 8
  ret i64 %n
}}"""


# barrier(pool): returns when all threads have arrived.
_BARRIER = f"""
define internal void @barrier(ptr %pool) {{
entry:
  %passed = getelementptr i8, ptr %pool, i64 {_PASSED}
  %arrived = getelementptr i8, ptr %pool, i64 {_ARRIVED}
  %waiting = getelementptr i8, ptr %pool, i64 {_WAITING}
  %seen = load atomic i32, ptr %passed monotonic, align 4
  %n = call i64 @threads(ptr %pool)
  %n32 = trunc i64 %n to i32
  %last = sub i32 %n32, 1
  %before = atomicrmw add ptr %arrived, i32 1 acq_rel
  %mine = icmp eq i32 %before, %last
  br i1 %mine, label %open, label %stay
open:
  store atomic i32 0, ptr %arrived monotonic, align 4
  %old = atomicrmw add ptr %passed, i32 1 seq_cst
  %sleepers = load atomic i32, ptr %waiting seq_cst, align 4
  %some = icmp ne i32 %sleepers, 0
  br i1 %some, label %rouse, label %done
rouse:
  call void @wake(ptr %passed)
  br label %done
stay:
  call void @wait(ptr %passed, i32 %seen, ptr %waiting, i64 {SPIN_IN_PLAN})
  br label %done
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
        return f"""
declare i64 @syscall(i64, ...)
define internal void @sleep(ptr %word, i32 %seen) {{
  %r = call i64 (i64, ...) @syscall(i64 {number}, ptr %word, i32 128, i32 %seen, ptr null, ptr null, i32 0)
  ret void
}}
define internal void @wake(ptr %word) {{
  %r = call i64 (i64, ...) @syscall(i64 {number}, ptr %word, i32 129, i32 2147483647, ptr null, ptr null, i32 0)
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

# A kernel: args are target, source, bytes per unit, bytes.
_COPY = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
define internal void @copy(ptr %args, i64 %lo, i64 %hi, ptr %scratch) {
  %target = load ptr, ptr %args, align 8
  %sp = getelementptr i8, ptr %args, i64 8
  %source = load ptr, ptr %sp, align 8
  %up = getelementptr i8, ptr %args, i64 16
  %unit = load i64, ptr %up, align 8
  %bp = getelementptr i8, ptr %args, i64 24
  %bytes = load i64, ptr %bp, align 8
  %from = mul i64 %lo, %unit
  %end = mul i64 %hi, %unit
  %past = icmp sgt i64 %end, %bytes
  %to = select i1 %past, i64 %bytes, i64 %end
  %n = sub i64 %to, %from
  %t = getelementptr i8, ptr %target, i64 %from
  %s = getelementptr i8, ptr %source, i64 %from
  call void @llvm.memcpy.p0.p0.i64(ptr %t, ptr %s, i64 %n, i1 false)
  ret void
}"""


def _bind(list_items: int, array_data: int) -> str:
    """bind(list, binding): write the addresses of arrays that moved since the last time where steps use them."""
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
