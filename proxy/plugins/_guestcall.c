/*
 * One call into a guest in one step: put its fuel back, write the input, call, and see whether it
 * came back. `proxy/plugins/guestcall.py` does the same by ctypes where this was not compiled, says
 * what every argument is, and is the specification: tests run both.
 *
 * The interpreter's lock is held all the time, as by ctypes.PyDLL. Host functions and the deadline
 * come back into Python through ctypes' callbacks, which leave no exception behind.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

/* wasmtime_val_raw_t: 16 bytes, of which an i32 or i64 uses the first half. */
typedef struct {
    int64_t value;
    int64_t upper;
} Slot;

typedef void *(*SetFuel)(void *context, uint64_t fuel);
typedef void *(*GetFuel)(void *context, uint64_t *fuel);
typedef void *(*Call)(void *context, const void *function, Slot *slots, size_t count, void **trap);

/* As `guestcall.py` has them: of durations in nanoseconds, upper bounds of what is counted together. */
static const int64_t bounds[] = {1000,    2000,    5000,     10000,    20000,    50000,
                                 100000,  200000,  500000,   1000000,  2000000,  5000000,
                                 10000000, 20000000, 50000000, 100000000};
#define BOUNDS ((int)(sizeof bounds / sizeof bounds[0]))
#define EXACT_CALLS 64
#define FUEL_SAMPLE 8
#define LOOK_NS 5000000

typedef struct {
    PyObject_HEAD
    SetFuel set_fuel;
    GetFuel get_fuel;
    Call call;
    void *context;
    const void *function;
    void **trap;
    uint64_t fuel;
    char *input; /* NULL only with a capacity of 0 */
    Py_ssize_t capacity;
    int64_t address;
    const char *memory;
    Py_ssize_t memory_bytes;
    void *error;
    PyObject *owner;
    PyObject *look;
    Slot slots[2];
    /* Of `say`; since `take_counts`, but for the first and the last. */
    uint64_t said;
    uint64_t fuel_counted;
    int64_t elapsed_ns;
    uint64_t buckets[BOUNDS + 1];
    int64_t looked_ns;
    int64_t last_ns;
} GuestCall;

/* The system's call behind it needs no entry into the kernel. */
static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static PyObject *guestcall_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    unsigned long long set_fuel, get_fuel, call, context, function, trap, fuel, input, memory;
    Py_ssize_t capacity, memory_bytes;
    long long address;
    PyObject *owner, *look;

    if (keywords != NULL && PyDict_GET_SIZE(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "GuestCall takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "KKKKKKKKnLKnOO", &set_fuel, &get_fuel, &call, &context, &function,
                          &trap, &fuel, &input, &capacity, &address, &memory, &memory_bytes,
                          &owner, &look))
        return NULL;
    if (!set_fuel || !get_fuel || !call || !context || !function || !trap || capacity < 0 ||
        (capacity > 0 && !input) || memory_bytes < 0 || (memory_bytes > 0 && !memory)) {
        PyErr_SetString(PyExc_ValueError, "GuestCall needs addresses that are not null");
        return NULL;
    }
    GuestCall *self = (GuestCall *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->set_fuel = (SetFuel)(uintptr_t)set_fuel;
    self->get_fuel = (GetFuel)(uintptr_t)get_fuel;
    self->call = (Call)(uintptr_t)call;
    self->context = (void *)(uintptr_t)context;
    self->function = (const void *)(uintptr_t)function;
    self->trap = (void **)(uintptr_t)trap;
    self->fuel = fuel;
    self->input = (char *)(uintptr_t)input;
    self->capacity = capacity;
    self->address = address;
    self->memory = (const char *)(uintptr_t)memory;
    self->memory_bytes = memory_bytes;
    self->error = NULL;
    self->owner = Py_NewRef(owner);
    self->look = Py_NewRef(look);
    return (PyObject *)self;
}

static int is_closed(GuestCall *self)
{
    if (self->context != NULL)
        return 0;
    PyErr_SetString(PyExc_RuntimeError, "the instance is closed");
    return 1;
}

/* The caller has looked whether it is closed. */
static PyObject *run_slots(GuestCall *self, int64_t first, int64_t second)
{
    self->slots[0].value = first;
    self->slots[1].value = second;
    self->error = self->call(self->context, self->function, self->slots, 2, self->trap);
    if (self->error != NULL || *self->trap != NULL)
        Py_RETURN_NONE;
    return PyLong_FromLongLong(self->slots[0].value);
}

static PyObject *guestcall_give(GuestCall *self, PyObject *payload)
{
    if (!PyBytes_Check(payload)) {
        PyErr_SetString(PyExc_TypeError, "the input of a guest is bytes");
        return NULL;
    }
    Py_ssize_t length = PyBytes_GET_SIZE(payload);
    if (length > self->capacity) {
        PyErr_SetString(PyExc_ValueError, "the input is longer than the guest's buffer");
        return NULL;
    }
    if (is_closed(self))
        return NULL;
    self->error = self->set_fuel(self->context, self->fuel);
    if (self->error != NULL)
        Py_RETURN_NONE;
    /* SAFETY: `input` is in the guest's memory, which neither moves nor shrinks, has `capacity`
       bytes there, and lives as long as the owner's store. */
    if (length > 0)
        memcpy(self->input, PyBytes_AS_STRING(payload), (size_t)length);
    return run_slots(self, self->address, length);
}

/* Whether bytes can stand in a JSON string as they are; -1: not ASCII. */
static int is_plain(const char *text, Py_ssize_t length)
{
    const uint64_t ones = 0x0101010101010101, highs = 0x8080808080808080;
    uint64_t found = 0, beyond = 0;
    /* PERF: eight bytes at a time. Of bytes below 0x80, `x - k` sets the high bit of those below k, and
       of some above such a one; so what is found is looked at again, and nothing is overlooked. */
    for (; length > 0; text += sizeof found, length -= (Py_ssize_t)sizeof found) {
        uint64_t x = ones * ' ';
        if (length >= (Py_ssize_t)sizeof x)
            memcpy(&x, text, sizeof x);
        else
            for (Py_ssize_t i = 0; i < length; i++)
                x = x << 8 | (unsigned char)text[i];
        beyond |= x;
        found |= (x - ones * 0x20) | ((x ^ ones * '"') - ones) | ((x ^ ones * '\\') - ones);
    }
    if (beyond & highs)
        return -1;
    return !(found & highs);
}

/* Write bytes of ASCII as a JSON string without its quotes; where it ends, NULL: beyond `end`. */
static char *escape(char *at, const char *end, const unsigned char *text, Py_ssize_t length)
{
    static const char digits[] = "0123456789abcdef";
    for (Py_ssize_t i = 0; i < length; i++) {
        unsigned char c = text[i];
        char brief = 0;
        if (end - at < 6)
            return NULL; /* the longest form would not fit: a few bytes of room are left unused */
        switch (c) {
        case '"': case '\\': brief = (char)c; break;
        case '\b': brief = 'b'; break;
        case '\t': brief = 't'; break;
        case '\n': brief = 'n'; break;
        case '\f': brief = 'f'; break;
        case '\r': brief = 'r'; break;
        }
        if (brief) {
            *at++ = '\\';
            *at++ = brief;
        } else if (c < 0x20) {
            memcpy(at, "\\u00", 4);
            at[4] = digits[c >> 4];
            at[5] = digits[c & 15];
            at += 6;
        } else {
            *at++ = (char)c;
        }
    }
    return at;
}

/* Write a whole number from 0 in decimal; where it ends, NULL: beyond `end`, or an exception. */
static char *decimal(char *at, const char *end, PyObject *number)
{
    char reversed[20];
    int length = 0;
    long long left = PyLong_AsLongLong(number);
    if (left < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a number in a guest's input is not negative");
        return NULL;
    }
    do {
        reversed[length++] = (char)('0' + left % 10);
        left /= 10;
    } while (left > 0);
    if (end - at < length)
        return NULL;
    while (length > 0)
        *at++ = reversed[--length];
    return at;
}

/* Count a call of `say`, and the fuel of one that came back. */
static void note_call(GuestCall *self, int64_t elapsed_ns, int came_back)
{
    int bucket = 0;
    while (bucket < BOUNDS && elapsed_ns > bounds[bucket])
        bucket++;
    self->buckets[bucket]++;
    self->elapsed_ns += elapsed_ns;
    self->last_ns = elapsed_ns;
    uint64_t said = self->said++;
    if (!came_back || (said >= EXACT_CALLS && said % FUEL_SAMPLE != 0))
        return;
    uint64_t left = self->fuel;
    self->get_fuel(self->context, &left);
    if (left < self->fuel)
        self->fuel_counted += (self->fuel - left) * (said < EXACT_CALLS ? 1 : FUEL_SAMPLE);
}

static PyObject *guestcall_say(GuestCall *self, PyObject *const *args, Py_ssize_t count)
{
    if (count < 2 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "say takes bytes, a text in bytes, and pieces");
        return NULL;
    }
    if (is_closed(self))
        return NULL;
    /* SAFETY: as in `give`; nothing is written before there is seen to be room for it, up to `end`. */
    char *at = self->input;
    const char *end = at + self->capacity;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *piece = args[i];
        if (PyBytes_Check(piece)) {
            const char *bytes = PyBytes_AS_STRING(piece);
            Py_ssize_t length = PyBytes_GET_SIZE(piece);
            int plain = 1;
            if (i == 1) {
                if (length == 0)
                    continue;
                plain = is_plain(bytes, length);
                if (plain < 0 || end - at < 2)
                    Py_RETURN_FALSE;
                *at++ = '"';
            }
            if (plain) {
                if (end - at < length)
                    Py_RETURN_FALSE;
                memcpy(at, bytes, (size_t)length);
                at += length;
            } else {
                at = escape(at, end, (const unsigned char *)bytes, length);
                if (at == NULL)
                    Py_RETURN_FALSE;
            }
            if (i == 1) {
                if (at == end)
                    Py_RETURN_FALSE;
                *at++ = '"';
            }
        } else if (PyLong_Check(piece)) {
            at = decimal(at, end, piece);
            if (at == NULL) {
                if (PyErr_Occurred())
                    return NULL;
                Py_RETURN_FALSE;
            }
        } else {
            PyErr_SetString(PyExc_TypeError, "a piece is bytes or a whole number");
            return NULL;
        }
    }
    int64_t started_ns = now_ns();
    if (started_ns - self->looked_ns > LOOK_NS) {
        self->looked_ns = started_ns;
        PyObject *seen = PyObject_CallNoArgs(self->look);
        if (seen == NULL)
            return NULL;
        Py_DECREF(seen);
        started_ns = now_ns();
    }
    self->error = self->set_fuel(self->context, self->fuel);
    if (self->error != NULL)
        Py_RETURN_NONE;
    PyObject *result = run_slots(self, self->address, at - self->input);
    note_call(self, now_ns() - started_ns, result != Py_None);
    return result;
}

static PyObject *guestcall_take_counts(GuestCall *self, PyObject *Py_UNUSED(ignored))
{
    PyObject *buckets = PyTuple_New(BOUNDS + 1);
    if (buckets == NULL)
        return NULL;
    uint64_t calls = 0;
    for (int i = 0; i <= BOUNDS; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(self->buckets[i]);
        if (number == NULL) {
            Py_DECREF(buckets);
            return NULL;
        }
        PyTuple_SET_ITEM(buckets, i, number);
        calls += self->buckets[i];
    }
    PyObject *counts = Py_BuildValue("KKLN", (unsigned long long)calls,
                                     (unsigned long long)self->fuel_counted,
                                     (long long)self->elapsed_ns, buckets);
    if (counts != NULL) {
        self->fuel_counted = 0;
        self->elapsed_ns = 0;
        memset(self->buckets, 0, sizeof self->buckets);
    }
    return counts;
}

static PyObject *guestcall_elapsed_ns(GuestCall *self, PyObject *Py_UNUSED(ignored))
{
    return PyLong_FromLongLong(self->last_ns);
}

static PyObject *guestcall_run(GuestCall *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "run takes two arguments");
        return NULL;
    }
    long long first = PyLong_AsLongLong(args[0]);
    if (first == -1 && PyErr_Occurred())
        return NULL;
    long long second = PyLong_AsLongLong(args[1]);
    if (second == -1 && PyErr_Occurred())
        return NULL;
    if (is_closed(self))
        return NULL;
    return run_slots(self, first, second);
}

static PyObject *guestcall_read(GuestCall *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "read takes two arguments");
        return NULL;
    }
    long long place = PyLong_AsLongLong(args[0]);
    if (place == -1 && PyErr_Occurred())
        return NULL;
    long long size = PyLong_AsLongLong(args[1]);
    if (size == -1 && PyErr_Occurred())
        return NULL;
    if (is_closed(self))
        return NULL;
    /* SAFETY: as with `input`; written so that no sum can overflow. */
    if (place < 0 || size < 0 || size > self->memory_bytes || place > self->memory_bytes - size)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(self->memory + place, (Py_ssize_t)size);
}

/* An engine with fuel, as all here are, gives no error. */
static PyObject *guestcall_refuel(GuestCall *self, PyObject *Py_UNUSED(ignored))
{
    if (is_closed(self))
        return NULL;
    self->set_fuel(self->context, self->fuel);
    Py_RETURN_NONE;
}

/* An engine with fuel, as all here are, gives no error; one that did would say that none was used. */
static PyObject *guestcall_fuel_used(GuestCall *self, PyObject *Py_UNUSED(ignored))
{
    uint64_t left = self->fuel;
    if (is_closed(self))
        return NULL;
    self->get_fuel(self->context, &left);
    return PyLong_FromUnsignedLongLong(left < self->fuel ? self->fuel - left : 0);
}

static PyObject *guestcall_take_error(GuestCall *self, PyObject *Py_UNUSED(ignored))
{
    void *error = self->error;
    self->error = NULL;
    if (error == NULL)
        Py_RETURN_NONE;
    return PyLong_FromUnsignedLongLong((unsigned long long)(uintptr_t)error);
}

static PyObject *guestcall_close(GuestCall *self, PyObject *Py_UNUSED(ignored))
{
    self->context = NULL;
    Py_RETURN_NONE;
}

static int guestcall_traverse(GuestCall *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->owner);
    Py_VISIT(self->look);
    return 0;
}

static int guestcall_clear(GuestCall *self)
{
    Py_CLEAR(self->owner);
    Py_CLEAR(self->look);
    return 0;
}

static void guestcall_dealloc(GuestCall *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    guestcall_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef guestcall_methods[] = {
    {"give", (PyCFunction)guestcall_give, METH_O, NULL},
    {"say", (PyCFunction)(void (*)(void))guestcall_say, METH_FASTCALL, NULL},
    {"run", (PyCFunction)(void (*)(void))guestcall_run, METH_FASTCALL, NULL},
    {"read", (PyCFunction)(void (*)(void))guestcall_read, METH_FASTCALL, NULL},
    {"refuel", (PyCFunction)guestcall_refuel, METH_NOARGS, NULL},
    {"fuel_used", (PyCFunction)guestcall_fuel_used, METH_NOARGS, NULL},
    {"take_error", (PyCFunction)guestcall_take_error, METH_NOARGS, NULL},
    {"take_counts", (PyCFunction)guestcall_take_counts, METH_NOARGS, NULL},
    {"elapsed_ns", (PyCFunction)guestcall_elapsed_ns, METH_NOARGS, NULL},
    {"close", (PyCFunction)guestcall_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot guestcall_slots[] = {
    {Py_tp_new, guestcall_new},
    {Py_tp_dealloc, guestcall_dealloc},
    {Py_tp_traverse, guestcall_traverse},
    {Py_tp_clear, guestcall_clear},
    {Py_tp_methods, guestcall_methods},
    {0, NULL},
};

static PyType_Spec guestcall_spec = {
    .name = "proxy.plugins._guestcall.GuestCall",
    .basicsize = sizeof(GuestCall),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_IMMUTABLETYPE,
    .slots = guestcall_slots,
};

static int module_exec(PyObject *module)
{
    PyObject *type = PyType_FromModuleAndSpec(module, &guestcall_spec, NULL);
    if (type == NULL)
        return -1;
    int failed = PyModule_AddObjectRef(module, "GuestCall", type);
    Py_DECREF(type);
    return failed;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_guestcall",
    .m_size = 0,
    .m_slots = module_slots,
};

PyMODINIT_FUNC PyInit__guestcall(void)
{
    return PyModuleDef_Init(&module_def);
}
