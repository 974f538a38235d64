/* One pass over the parameters: a spring's gradient, Adam, the path integral. See native.py for the meaning. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define CHUNK 4096

typedef struct {
    int64_t size;
    double *steps;
    float *value, *average, *square_average;
    const float *doubled_stiffness, *centre; /* NULL where there is no spring */
    float *total;                            /* NULL where the path is not tracked */
    float *position;                         /* NULL where it is not kept */
} Parameter;

typedef struct {
    double lr, beta1, beta2, epsilon;
} Adam;

/* Three constants make six loops of this, none with a branch in it. */
static inline __attribute__((always_inline)) void update_range(
    const Parameter *p, const float *gradients, int64_t begin, int64_t end, const Adam *adam, int has_spring,
    int is_tracked, int has_position)
{
    const float beta2 = (float)adam->beta2, epsilon = (float)adam->epsilon;
    const float share1 = (float)(1 - adam->beta1), share2 = (float)(1 - adam->beta2);
    const float step_size = (float)(adam->lr / (1 - pow(adam->beta1, *p->steps)));
    const float correction = (float)sqrt(1 - pow(adam->beta2, *p->steps));
    float *restrict value = p->value, *restrict average = p->average, *restrict square_average = p->square_average;
    const float *restrict stiffness = p->doubled_stiffness, *restrict centre = p->centre;
    float *restrict total = p->total, *restrict position = p->position;

#pragma omp simd
    for (int64_t i = begin; i < end; i++) {
        float gradient = gradients[i];
        if (has_spring)
            gradient += stiffness[i] * (value[i] - centre[i]);
        average[i] += share1 * (gradient - average[i]);
        square_average[i] = beta2 * square_average[i] + share2 * gradient * gradient;
        const float before = has_position ? position[i] : value[i];
        value[i] -= step_size * average[i] / (sqrtf(square_average[i]) / correction + epsilon);
        if (is_tracked)
            total[i] -= gradient * (value[i] - before);
        if (has_position)
            position[i] = value[i];
    }
}

void update(Parameter *parameters, const float *const *gradients, int count, const Adam *adam)
{
    for (int n = 0; n < count; n++)
        *parameters[n].steps += 1;
#pragma omp parallel
    for (int n = 0; n < count; n++) {
        const Parameter *p = &parameters[n];
#pragma omp for schedule(static) nowait
        for (int64_t begin = 0; begin < p->size; begin += CHUNK) {
            const int64_t end = begin + CHUNK < p->size ? begin + CHUNK : p->size;
            if (p->centre != NULL && p->position != NULL)
                update_range(p, gradients[n], begin, end, adam, 1, 1, 1);
            else if (p->centre != NULL && p->total != NULL)
                update_range(p, gradients[n], begin, end, adam, 1, 1, 0);
            else if (p->centre != NULL)
                update_range(p, gradients[n], begin, end, adam, 1, 0, 0);
            else if (p->position != NULL)
                update_range(p, gradients[n], begin, end, adam, 0, 1, 1);
            else if (p->total != NULL)
                update_range(p, gradients[n], begin, end, adam, 0, 1, 0);
            else
                update_range(p, gradients[n], begin, end, adam, 0, 0, 0);
        }
    }
}
